"""How many images of each class a selection keeps, and which the classifier recognises."""

from collections.abc import Sequence

from engine.datasets.manifest import Row


def quotas(classes: Sequence[int], keep: float) -> dict[int, int]:
    """How many images of each class are kept: the share rounded, at least one."""
    return {number: max(1, round(keep * classes.count(number))) for number in sorted(set(classes))}


def is_recognised(row: Row) -> bool:
    """Whether the classifier names the image's own class."""
    return int(row.logits.argmax()) == row.class_index
