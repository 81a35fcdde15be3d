"""What a classifier is known to expect inside: a value, and the sources that it can come from.

A source is a function in a module of its own. It reads a frozen network and gives `Statistics` or an `ImageTerm`, or
says with `Absent` why it has none. `STATISTICS` in `engine.settings.sources`, which needs no library, names it;
`load_classifier(..., statistics="<name>")` takes it, or "<name>:<argument>".
"""

from importlib import import_module

from engine.classifiers.statistics.base import (
    Absent,
    Examined,
    ImageTerm,
    Known,
    Statistics,
    StatisticsSource,
    StatisticsWarning,
    Tap,
)
from engine.settings.sources import BATCH_NORM, NO_STATISTICS, STATISTICS, statistics_source

__all__ = [
    "BATCH_NORM",
    "Absent",
    "Examined",
    "ImageTerm",
    "Known",
    "Statistics",
    "StatisticsSource",
    "StatisticsWarning",
    "Tap",
    "find_statistics",
]


def find_statistics(source: str, examined: Examined) -> Known:
    """What is known of a frozen network by the name of a source, as in "batch-norm" or "<name>:<argument>".

    Args:
        source: a name of `STATISTICS`, with an argument behind a colon where it takes one, the path of
            a statistics file, or "none".
        examined: the network.

    Raises:
        ConfigError: for a name that is not in the registry.
        ModelError: for a statistics file that does not fit the network.
    """
    name, argument = statistics_source(source)
    if name == NO_STATISTICS:
        return Absent(
            "was loaded without statistics",
            "some",
            f"set `statistics` to {BATCH_NORM!r} for a network that has it, or to a file of `ddis statistics`, or to "
            "'energy'",
        )
    module, _, function = STATISTICS[name].place.partition(":")
    find: StatisticsSource = getattr(import_module(module), function)
    return find(examined, argument)
