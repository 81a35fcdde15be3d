"""Prepare a request by the method that its settings name.

To add a method, write its settings (`engine.settings.methods.MethodSettings`, a module that imports no heavy library)
and its function (`engine.methods.base.Prepare`), which the settings name, and add the settings to `Method` in
`engine.request`. Methods are imported when they are used.
"""

from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from typing import Any, get_args

from engine.classifiers.base import Classifier
from engine.errors import ConfigError
from engine.methods.base import Prepare, Prepared
from engine.methods.models import Given, Models
from engine.request import METHODS, Execution, Method, Request
from engine.settings.methods import MethodSettings
from engine.settings.plain import nearest


def prepare(
    request: Request, models: Models | None = None, execution: Execution = Execution()
) -> Prepared:
    """A request made ready by its method: models loaded, everything checked. Nothing is written."""
    models = models or Models(request, execution)
    check_used(request, execution, models.given)
    return prepare_of(request.method)(request, models, execution)


def prepare_of(settings: MethodSettings) -> Prepare:
    """Import the function that a method's settings name in `prepared_by`."""
    module, _, name = settings.prepared_by.partition(":")
    function: Prepare = getattr(import_module(module), name)
    return function


def settings_class(name: str) -> type[Method]:
    """The settings of a method by its name. Raises ConfigError for an unknown one."""
    if name not in METHODS:
        raise ConfigError(
            f"unknown method {name!r}, expected one of {', '.join(map(repr, METHODS))}, or the settings of one of "
            f"these, such as DeepInversion(): choose one.{nearest(str(name), METHODS)}"
        )
    return METHODS[name]


def settings_of(method: str | Method, classifier: Callable[[], Classifier]) -> Method:
    """A method's settings, or by its name the defaults.

    classifier: asked for where the defaults depend on the size of its images.
    """
    if isinstance(method, get_args(Method)):
        return method
    kind: Any = settings_class(str(method))
    sized = getattr(kind, "for_px", None)
    return kind() if sized is None else sized(classifier().input_px)


def check_used(request: Request, execution: Execution, given: Given) -> None:
    """Raise ConfigError for a setting or an object of a model that the method does not use."""
    objects: dict[str, dict[str, Any]] = {
        "prior": {"prior": given.prior, "tokens": given.tokens, "memory": given.plan},
        "student": {"student": given.student},
    }
    named = [
        (entry.metadata["of"], entry.name)
        for config in (request, execution)
        for entry in fields(config)
        if entry.metadata.get("of")
        and getattr(config, entry.name) != getattr(type(config)(), entry.name)
    ]
    handed = [
        (of, name) for of, held in objects.items() for name, one in held.items() if one is not None
    ]
    for of, name in named + handed:
        if of not in request.method.uses:
            users = [repr(kind.name) for kind in METHODS.values() if of in kind.uses]
            raise ConfigError(
                f"{name} is given with method {request.method.name!r}, expected none: it is for {' and '.join(users)}. "
                "Leave it out, or choose such a method."
            )
