"""The runners by name, each imported when it is used. To add one, write it (`engine.runners.base`) and add a line."""

from collections.abc import Mapping
from importlib import import_module
from os.path import expanduser
from pathlib import Path
from typing import Any

from engine.errors import ConfigError, check_type
from engine.events import SILENT, Events
from engine.methods.models import NOTHING, Given
from engine.request import Execution
from engine.runners.base import Runner
from engine.settings.plain import nearest

RUNNERS = {
    "local": "engine.runners.local:LocalRunner",
    "share": "engine.runners.share:ShareRunner",
    "ray": "engine.cluster.runner:RayRunner",
}
"""'<module>:<class>' of each runner."""


LEARNER = "engine.cluster.tokens:learn_on_workers"
"""'<module>:<function>' of what learns tokens on a cluster."""


def runner_for(
    execution: Execution,
    out: str | Path | None = None,
    events: Events = SILENT,
    given: Given = NOTHING,
    expected: Mapping[str, Any] | None = None,
) -> Runner:
    """The runner that an execution names; the rest as `engine.runners.base.Runner` is made with."""
    check_type("out", out, str | Path | None, "the path of a folder, or None")
    check_type("events", events, Events, "Events, such as Events(print)")
    out = None if out is None else expanduser(out)  # no Path: it may be a URL
    return runner_class(execution.carried_out_by)(out, execution, events, given, expected)


def runner_class(name: str) -> type[Runner]:
    """The class of a runner by its name. Raises ConfigError for an unknown one."""
    if name not in RUNNERS:
        raise ConfigError(
            f"runner is {name!r}, expected one of {', '.join(map(repr, RUNNERS))}: choose one."
            f"{nearest(name, RUNNERS)}"
        )
    kind: type[Runner] = _named(RUNNERS[name])
    return kind


def learn_on_cluster(*arguments: Any) -> Any:
    """As `engine.cluster.tokens.learn_on_workers`, which is imported when it is called."""
    return _named(LEARNER)(*arguments)


def _named(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
