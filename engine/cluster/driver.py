"""Give parts to workers until none is missing, whatever happens to the workers.

The driver makes nothing and holds nothing that is not in the store of parts: it may be killed and called again. It
knows workers only as a `Pool`, so that it is tested, and simulated, without a cluster.

    a worker is lost (its process, its node)   its part goes to another, and a new worker is started
    a part loses ATTEMPTS workers              the run ends, naming the part (`Losses` says which workers count)
    a part loses NODES workers with nodes      as well: perhaps it is what takes them down
    a worker answers with an error             the run ends with it: the same call would fail again
    STARTS workers in a row never get ready    the run ends with the last reason; while others work, it leaves one out
    a part takes SLOW times as long as usual   an idle worker makes it as well; the first that is done counts
    a part takes HANGS times as long           its worker is stopped, as if it were lost
    a worker starts for half an hour           as if it did not get ready

Where parts differ much, as cohorts of tokens do, these times are longer (`Usual.longest`).
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from engine.cluster.assignments import Assignment, Losses, hanging, slow_part
from engine.cluster.pool import Answer, ClusterError, Failed, Handle, Lost, Pool, Ready
from engine.cluster.usual import Usual

ATTEMPTS = 3
NODES = 10
STARTS = 5
WAIT = 1.0
"""Seconds after which the driver looks for slow parts."""
NONE_READY = 60.0
"""Seconds between two notes that no worker is ready."""


class Driver:
    """Parts of a run and the workers that make them.

    Args:
        pool: the workers.
        workers: how many are kept alive.
        begin: called with what the first ready worker says of itself; gives the numbers of the missing parts, in the
            order in which they are given out.
        fits: called with what a later one says of itself; where it is False, another worker is started in its place.
        note: called with a sentence on whatever a person might want to know.
        clock: seconds.
        tick: called each time that the driver has looked for answers, a second apart at most.
        usual: learns how long parts and starts take.
        kept: as `Losses` takes it.
    """

    def __init__(
        self,
        pool: Pool,
        workers: int,
        begin: Callable[[Any], Sequence[int]],
        fits: Callable[[Any], bool] = lambda _: True,
        note: Callable[[str], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        tick: Callable[["Driver"], object] = lambda _: None,
        usual: Usual | None = None,
        kept: Callable[[int], object] = lambda _: None,
    ) -> None:
        self.pool, self.begin, self.fits, self.note, self.clock = pool, begin, fits, note, clock
        self.workers, self.tick = workers, tick
        self.begun = False
        self.waiting: deque[int] = deque()
        self.missing: set[int] = set()
        self.assignments: dict[Handle, Assignment] = {}
        self.idle: set[Handle] = set()
        self.losses = Losses(kept)
        self.usual = usual or Usual()
        self.looked = self.last_ready = self.noted = clock()
        self.failed_starts = self.given_up = 0
        self.lost = 0
        self.made_twice = 0

    def start(self) -> None:
        """Wait until a first worker is ready. Raises what `parts` raises."""
        try:
            while not self.begun:
                self._fill()
                for answer in self.pool.answers(WAIT):
                    self._take(answer)
                self._look()
        except BaseException:
            self.stop()
            raise

    def parts(self) -> Iterator[tuple[int, Any]]:
        """Make all missing parts; yields each once, when it is done, with what its worker says of it.

        Raises ClusterError, or the error that a worker answered with.
        """
        try:
            self.start()
            while self.missing:
                self._fill()
                made = [self._take(answer) for answer in self.pool.answers(WAIT)]
                yield from (part for part in made if part is not None)
                self.tick(self)
                self._look()
        finally:
            self.stop()

    def stop(self) -> None:
        """End all workers."""
        for worker in [*self.assignments, *self.idle]:
            self.pool.stop(worker)
        self.assignments.clear()
        self.idle.clear()

    @property
    def seconds_left(self) -> float | None:
        """Roughly; None before the first part is done."""
        ready = sum(assignment.part is not None for assignment in self.assignments.values())
        usual = self.usual.seconds
        return usual * len(self.missing) / ready if usual is not None and ready else None

    def _fill(self) -> None:
        """Start workers up to the number that is kept, but no more than there are parts to give."""
        kept = self.workers - self.given_up
        wanted = min(kept, len(self.missing)) if self.begun else kept
        while len(self.assignments) + len(self.idle) < wanted:
            self.assignments[self.pool.start()] = Assignment(None, self.clock())

    def _take(self, answer: Answer) -> tuple[int, Any] | None:
        """Do what an answer asks for. Returns the part that it made, with what its worker says of it."""
        assignment = self.assignments.pop(answer.worker, None)
        if assignment is None:  # of a worker that was stopped meanwhile
            return None
        if isinstance(answer, Failed):
            self.pool.stop(answer.worker)
            raise answer.error
        if isinstance(answer, Lost):
            self.pool.stop(answer.worker)
            self._lose(assignment, answer.reason, answer.with_node)
            return None
        made = None
        if isinstance(answer, Ready):
            self.failed_starts = self.given_up = 0
            self.usual.note_start(self.clock() - assignment.since)
            if self.begun and not self.fits(answer.hello):
                self.pool.stop(answer.worker)
                return None
            self._begin(answer.hello)
        else:
            self.usual.note_part(self.clock() - assignment.since)
            if answer.part in self.missing:
                self.missing.discard(answer.part)
                made = answer.part, answer.result
            else:
                self.made_twice += 1
        self._occupy(answer.worker)
        return made

    def _begin(self, hello: Any) -> None:
        """Learn from the first worker what there is to make."""
        if not self.begun:
            self.begun = True
            parts = self.begin(hello)
            self.waiting.extend(parts)
            self.missing.update(parts)

    def _lose(self, assignment: Assignment, reason: str, with_node: bool = False) -> None:
        """Give a lost worker's part back."""
        if assignment.part is None:
            if with_node:
                self.note(f"a worker was lost before it was ready: {reason}")
                return
            self.failed_starts += 1
            self.note(f"a worker did not get ready: {reason}")
            if self.failed_starts < STARTS:
                return
            if not self._is_any_ready():
                raise ClusterError(
                    f"{STARTS} workers in a row did not get ready, expected one that does: mend the reason and run the "
                    f"same command again; what is done is kept. The last reason: {reason}"
                )
            self.given_up += 1
            self.note(
                f"{self.given_up} of {self.workers} workers are left out until one gets ready"
            )
            return
        self.lost += 1
        part = assignment.part
        if part not in self.missing:
            return
        self.note(f"a worker was lost with part {part}: {reason}")
        most, what = (NODES, "workers with their nodes") if with_node else (ATTEMPTS, "workers")
        if self.losses.count(part, with_node) >= most:
            raise ClusterError(
                f"part {part} lost {most} {what} ({reason}), expected it to be made: memory may be short, so plan for "
                "less `memory`, or see the workers' logs. What is done is kept."
            )
        if part not in {other.part for other in self.assignments.values()}:
            self.waiting.appendleft(part)

    def _occupy(self, worker: Handle) -> None:
        """Give a worker that has nothing to do a part; where none waits, one that is slow elsewhere."""
        self.idle.discard(worker)
        part = self._next()
        if part is None:
            self.idle.add(worker)
            return
        self.assignments[worker] = Assignment(part, self.clock())
        self.pool.give(worker, part)

    def _next(self) -> int | None:
        while self.waiting:
            part = self.waiting.popleft()
            if part in self.missing:
                return part
        slow = slow_part(self.assignments, self.missing, self.usual, self.clock())
        if slow is not None:
            self.note(f"part {slow} is slow: a second worker makes it as well")
        return slow

    def _look(self) -> None:
        """Look after workers that do not answer, or have nothing to do, once in WAIT seconds."""
        if self.clock() - self.looked < WAIT:
            return
        self.looked = self.clock()
        self._look_for_hanging()
        if self._is_any_ready():
            self.last_ready = self.noted = self.clock()
        elif self.clock() - self.noted >= NONE_READY:
            self.noted = self.clock()
            waited = f"no worker is ready after {self.noted - self.last_ready:.0f} s"
            self.note(f"{waited}: the cluster has no room for one now, or models take long to load")
        for worker in [*self.idle]:
            self._occupy(worker)

    def _is_any_ready(self) -> bool:
        return bool(self.idle) or any(
            assignment.part is not None for assignment in self.assignments.values()
        )

    def _look_for_hanging(self) -> None:
        for worker, assignment in hanging(self.assignments, self.usual, self.clock()):
            del self.assignments[worker]
            self.pool.stop(worker)
            # Where others work, this one may only wait for room: it is begun again, as often as it takes.
            if assignment.part is not None or not self._is_any_ready():
                age = self.clock() - assignment.since
                self._lose(assignment, f"it did not answer for {age:.0f} s")
