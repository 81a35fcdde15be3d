"""What workers are doing, which of it takes too long, and which of it ends them."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from engine.cluster.pool import Handle
from engine.cluster.usual import Usual


@dataclass(frozen=True)
class Assignment:
    """What a worker is doing. part: None while it starts."""

    part: int | None
    since: float


def slow_part(
    assignments: Mapping[Handle, Assignment], missing: Collection[int], usual: Usual, now: float
) -> int | None:
    """Of the parts that one worker makes and that take long, the one that was begun first; None where there is none."""
    makers = Counter(assignment.part for assignment in assignments.values())
    slow = [
        (assignment.since, assignment.part)
        for assignment in assignments.values()
        if assignment.part in missing
        and makers[assignment.part] == 1
        and usual.is_slow(now - assignment.since)
    ]
    return min(slow)[1] if slow else None


def hanging(
    assignments: Mapping[Handle, Assignment], usual: Usual, now: float
) -> list[tuple[Handle, Assignment]]:
    """The workers that will never answer, and what they are doing."""
    return [
        (worker, assignment)
        for worker, assignment in assignments.items()
        if usual.hangs(now - assignment.since, starting=assignment.part is None)
    ]


class Losses:
    """Counts the workers that a part has ended, as far as anyone can tell.

    Those that were lost with their nodes, which are taken away whatever they do, count apart; and where a part takes
    hours, none from before its latest progress counts.

    kept: what is kept of a part that is not done, by its number; a value that changes with it.
    """

    def __init__(self, kept: Callable[[int], object]) -> None:
        self._kept = kept
        self._seen: dict[int, object] = {}
        self._counts: Counter[tuple[int, bool]] = Counter()

    def __contains__(self, part: int) -> bool:
        """Whether a worker was lost with a part, which it may have written before."""
        return part in self._seen

    def count(self, part: int, with_node: bool) -> int:
        """Add a loss. Returns how many of its sort, with or without a node, count by now."""
        kept = self._kept(part)
        if kept != self._seen.get(part, kept):
            self._counts[part, False] = self._counts[part, True] = 0
        self._seen[part] = kept
        self._counts[part, with_node] += 1
        return self._counts[part, with_node]
