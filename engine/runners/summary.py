"""One line a minute on a run in parts, for logs that nobody watches as they grow."""

import time
from collections.abc import Callable

from engine.events import Events, Summarised

SECONDS = 60.0
"""Between two lines, at least."""


class Summary:
    """Says how far a run is. `tick` may be called as often as one likes.

    Args:
        events: where the lines go.
        task: what is counted.
        total: parts of the run, or of the share of this process.
        clock: seconds.
    """

    def __init__(
        self, events: Events, task: str, total: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.events, self.task, self.total, self.clock = events, task, total, clock
        self.said = clock()

    def tick(self, done: int, seconds_left: float | None, detail: str = "") -> None:
        """Report parts that are done, and the time that is left, if the last line is a minute old."""
        if self.clock() - self.said >= SECONDS:
            self.said = self.clock()
            self.events.emit(Summarised(self.task, done, self.total, seconds_left, detail))
