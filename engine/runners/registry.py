"""The runners by name, each imported when it is used. To add one, write it (`engine.runners.base`) and add a line."""

from importlib import import_module

from engine.errors import ConfigError
from engine.runners.base import Runner
from engine.settings.plain import nearest

RUNNERS = {
    "local": "engine.runners.local:LocalRunner",
}
"""'<module>:<class>' of each runner."""


def runner_class(name: str) -> type[Runner]:
    """The class of a runner by its name. Raises ConfigError for an unknown one."""
    if name not in RUNNERS:
        raise ConfigError(
            f"unknown runner {name!r}, expected one of {', '.join(map(repr, RUNNERS))}: choose one."
            f"{nearest(name, RUNNERS)}"
        )
    module, _, kind = RUNNERS[name].partition(":")
    return getattr(import_module(module), kind)
