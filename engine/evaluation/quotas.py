"""How many images of each class a selection keeps, and which the classifier recognises."""

from collections import Counter
from collections.abc import Sequence

from engine.datasets.manifest import Row


def quotas(classes: Sequence[int], keep: float) -> dict[int, int]:
    """How many images of each class are kept: the share rounded, at least one."""
    return {
        number: max(1, round(keep * count)) for number, count in sorted(Counter(classes).items())
    }


def is_recognised(row: Row) -> bool:
    """Whether the classifier names the image's own class."""
    return int(row.logits.argmax()) == row.class_index
