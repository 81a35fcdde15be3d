"""Workers in simulated time: what a cluster does to its driver, without one."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from engine.cluster.pool import Answer, Handle, Lost, Made, Ready


@dataclass
class SimulatedPool:
    """A pool in simulated time.

    seconds: of a part on a worker. start_seconds: until a worker is ready. dies: whether a worker is lost with a part,
    and after which share of its time. answer: what a ready worker's call gives in place of `Made`, None for that.
    """

    parts: int
    seconds: Callable[[int, int], float] = lambda worker, part: 1.0
    start_seconds: float = 5.0
    starts: Callable[[int], str] = lambda worker: ""
    dies: Callable[[int, int], float | None] = lambda worker, part: None
    answer: Callable[[int, int], Answer | None] = lambda worker, part: None
    now: float = 0.0
    made: list[int] = field(default_factory=list)
    stopped: set[int] = field(default_factory=set)
    given: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.numbers = count()
        self.order = count()
        self.queue: list[tuple[float, int, int, Answer]] = []

    def clock(self) -> float:
        return self.now

    def hello(self) -> dict[str, Any]:
        made = set(self.made)
        return {"missing": [part for part in range(self.parts) if part not in made]}

    def start(self) -> Handle:
        worker = next(self.numbers)
        reason = self.starts(worker)
        answer: Answer = Lost(worker, None, reason) if reason else Ready(worker, self.hello())
        self._later(self.start_seconds, answer)
        return worker

    def give(self, worker: Handle, part: int) -> None:
        assert isinstance(worker, int)
        self.given.append((worker, part))
        seconds, dies = self.seconds(worker, part), self.dies(worker, part)
        if dies is not None:
            self._later(dies * seconds, Lost(worker, part, "its process ended"))
        else:
            self._later(
                seconds, self.answer(worker, part) or Made(worker, part, {"units": 1, "made": 1})
            )

    def answers(self, seconds: float) -> Sequence[Answer]:
        if not self.queue or self.queue[0][0] > self.now + seconds:
            self.now += seconds
            return []
        self.now = max(self.now, self.queue[0][0])
        found = []
        while self.queue and self.queue[0][0] <= self.now:
            answer = heapq.heappop(self.queue)[3]
            if answer.worker in self.stopped:
                continue
            if isinstance(answer, Made):
                self.made.append(answer.part)
            found.append(answer)
        return found

    def stop(self, worker: Handle) -> None:
        assert isinstance(worker, int)
        self.stopped.add(worker)

    def _later(self, seconds: float, answer: Answer) -> None:
        heapq.heappush(self.queue, (self.now + seconds, next(self.order), 0, answer))
