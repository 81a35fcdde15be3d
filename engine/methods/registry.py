"""The methods by name, each imported when it is used.

A method is its settings, which a request carries, and a function that prepares a request (`engine.methods.base`). To
add one, write both, name the settings in `engine.request.Method` and add a line here.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple, get_args

from engine.classifiers.base import Classifier
from engine.errors import ConfigError
from engine.methods.base import Prepare, Prepared
from engine.methods.models import Models
from engine.request import Execution, Method, Request
from engine.settings.plain import nearest


class Line(NamedTuple):
    """Where a method's settings and its function are, as '<module>:<name>'."""

    settings: str
    prepare: str


DRAWN, INVERTED = "engine.settings.methods", "engine.settings.inversion"
METHODS = {
    "ddis": Line(f"{DRAWN}:DDIS", "engine.methods.ddis:prepare"),
    "plain": Line(f"{DRAWN}:Plain", "engine.methods.ddis:prepare"),
    "deepinversion": Line(f"{INVERTED}:DeepInversion", "engine.methods.deepinversion:METHOD"),
    "plugin-inversion": Line(
        f"{INVERTED}:PlugInInversion", "engine.methods.plugin_inversion:METHOD"
    ),
    "natural-inversion": Line(
        f"{INVERTED}:NaturalInversion", "engine.methods.natural_inversion:METHOD"
    ),
}


def prepare(
    request: Request, models: Models | None = None, execution: Execution = Execution()
) -> Prepared:
    """A request made ready by its method: models loaded, everything checked. Nothing is written."""
    function: Prepare = resolved(METHODS[request.method.name].prepare)
    return function(request, models or Models(request, execution), execution)


def settings_class(name: str) -> type[Method]:
    """The settings of a method by its name. Raises ConfigError for an unknown one."""
    if name not in METHODS:
        raise ConfigError(
            f"unknown method {name!r}, expected one of {', '.join(map(repr, METHODS))}, or the settings of one of "
            f"these, such as DeepInversion(): choose one.{nearest(str(name), METHODS)}"
        )
    return resolved(METHODS[name].settings)


def settings_of(method: str | Method, classifier: Callable[[], Classifier]) -> Method:
    """A method's settings, or by its name the defaults.

    classifier: asked for where the defaults depend on the size of its images.
    """
    if isinstance(method, get_args(Method)):
        return method
    kind = settings_class(str(method))
    sized = getattr(kind, "for_px", None)
    return kind() if sized is None else sized(classifier().input_px)


def resolved(place: str) -> Any:
    """What '<module>:<name>' names."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
