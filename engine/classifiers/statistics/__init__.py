"""What a classifier is known to expect inside: a value, and the sources that it can come from.

A source is a function in a module of its own. It reads a frozen network and gives `Statistics`, or says with `Absent`
why it has none. `SOURCES` names it; `load_classifier(..., statistics="<name>")` takes it, or "<name>:<argument>".
"""

from collections.abc import Callable
from importlib import import_module

from torch import nn

from engine.classifiers.statistics.base import Absent, Statistics, StatisticsWarning, Tap
from engine.errors import ConfigError

__all__ = [
    "SOURCES",
    "Absent",
    "Statistics",
    "StatisticsSource",
    "StatisticsWarning",
    "Tap",
    "find_statistics",
]

StatisticsSource = Callable[[nn.Module, Callable[[], object], str], Statistics | Absent]
"""(frozen network, a function that runs it on one blank image, argument) -> what is known of the network.

argument: what the user wrote after the source's name and a colon, "" for nothing.
"""

BATCH_NORM = "batch-norm"
NONE = "none"
"""The name that asks for no statistics."""

SOURCES = {
    BATCH_NORM: "engine.classifiers.statistics.batch_norm:batch_norm",
}
"""Where statistics come from: a name, and "module:function" of its `StatisticsSource`."""


def find_statistics(
    source: str, network: nn.Module, run: Callable[[], object]
) -> Statistics | Absent:
    """The statistics of a frozen network by the name of their source, as in "batch-norm" or "<name>:<argument>".

    Args:
        source: a name of `SOURCES`, with an argument behind a colon where it takes one, or "none".
        network: frozen, in float32.
        run: runs the network on one blank image.

    Raises:
        ConfigError: for a name that is not in the registry.
    """
    name, _, argument = source.partition(":")
    if name == NONE:
        return Absent(
            "was loaded without statistics", "some", f"set `statistics` to {BATCH_NORM!r}"
        )
    if name not in SOURCES:
        raise ConfigError(
            f"statistics is {source!r}, expected one of {', '.join(map(repr, (*SOURCES, NONE)))}: choose one "
            "of these."
        )
    module, _, function = SOURCES[name].partition(":")
    find: StatisticsSource = getattr(import_module(module), function)
    return find(network, run, argument)
