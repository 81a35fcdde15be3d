"""What workers are doing, and which of it takes too long."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from engine.cluster.pool import Worker
from engine.cluster.usual import Usual


@dataclass(frozen=True)
class Task:
    """What a worker is doing. part: None while it starts."""

    part: int | None
    since: float


def slow_part(
    tasks: Mapping[Worker, Task], missing: Collection[int], usual: Usual, now: float
) -> int | None:
    """Of the parts that one worker makes and that take long, the one that was begun first; None where there is none."""
    makers = Counter(task.part for task in tasks.values())
    slow = [
        (task.since, task.part)
        for task in tasks.values()
        if task.part in missing and makers[task.part] == 1 and usual.is_slow(now - task.since)
    ]
    return min(slow)[1] if slow else None


def hanging(tasks: Mapping[Worker, Task], usual: Usual, now: float) -> list[tuple[Worker, Task]]:
    """The workers that will never answer, and what they are doing."""
    return [
        (worker, task)
        for worker, task in tasks.items()
        if usual.hangs(now - task.since, starting=task.part is None)
    ]
