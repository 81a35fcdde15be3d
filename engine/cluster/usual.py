"""How long parts and starts of workers take, and so which of them are slow or hang."""

from collections import deque
from statistics import median

SLOW = 2.0
HANGS = 10.0
FIRST_PART = 30.0
"""A first part hangs once it takes so many times as long as the quickest start, which loads the models and makes three
steps of a group."""
LEAST_SECONDS_OF_A_HANG = 30 * 60
RECENT = 200
"""Parts whose median says what is usual."""


class Usual:
    """Collects what was seen. seconds: of a part, the median of the last ones; None before the first.

    longest: how many times as long as usual a part may take though nothing is wrong: tokens of one class are learned in
    an epoch, and those of another in all that there are.
    """

    def __init__(self, longest: float = 1.0) -> None:
        self.longest = longest
        self.seconds: float | None = None
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._quickest_start = float("inf")

    def note_part(self, seconds: float) -> None:
        """Add a part that took so long."""
        self._recent.append(seconds)
        self.seconds = median(self._recent)

    def note_start(self, seconds: float) -> None:
        """Add a worker that was ready after so long."""
        self._quickest_start = min(self._quickest_start, seconds)

    def is_slow(self, seconds: float) -> bool:
        """Whether a part that takes so long already is worth making twice."""
        return self.seconds is not None and seconds > max(SLOW, self.longest) * self.seconds

    def hangs(self, seconds: float, starting: bool) -> bool:
        """Whether a worker that starts, or makes a part, for so long will never answer."""
        if starting:
            limit = 0.0
        elif self.seconds is None:
            limit = FIRST_PART * self.longest * self._quickest_start
        else:
            limit = max(HANGS, 2 * self.longest) * self.seconds
        return seconds > max(limit, LEAST_SECONDS_OF_A_HANG)
