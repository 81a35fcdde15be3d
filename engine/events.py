"""What a run reports while it works, as one stream of plain values, and the way to stop it.

    events = Events(print)                   # or a progress bar, a JSON lines file, a page: any callable
    events.cancel()                          # from any thread: the run ends at its next event

Whoever works emits; whoever watches is called with each event, in order, in the thread that works.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import isnan
from typing import ClassVar

from engine.errors import EngineError


class Cancelled(EngineError):
    """The run was asked to stop and did, at a point from which it can be resumed."""


@dataclass(frozen=True)
class Event:
    """Something that happened. `kind` names it in JSON."""

    kind: ClassVar[str]

    def to_json(self) -> str:
        """One line of JSON: {"event": kind, ...}. What is not a number is null."""
        known = {
            name: None if isinstance(value, float) and isnan(value) else value
            for name, value in asdict(self).items()
        }
        return json.dumps({"event": self.kind, **known}, ensure_ascii=False)


@dataclass(frozen=True)
class Started(Event):
    """A task begins.

    total: its units of work, such as images or epochs, None where their number is not known; done: those of them that
    this call need not do.
    """

    kind: ClassVar[str] = "started"
    task: str
    total: float | None
    done: float = 0


@dataclass(frozen=True)
class Progressed(Event):
    """A task went on by some units. detail: a few words on the latest one."""

    kind: ClassVar[str] = "progressed"
    task: str
    units: float
    detail: str = ""


@dataclass(frozen=True)
class Stepped(Event):
    """A group of images went through one step of a schedule or one iteration of an optimisation.

    index: from 0, of `total`. loss: what guidance or the optimisation measured in this step, as the mean of the images;
    None where nothing was measured, and for streams without `losses`.
    """

    kind: ClassVar[str] = "step"
    task: str
    images: int
    index: int
    total: int
    loss: float | None = None


@dataclass(frozen=True)
class Previewed(Event):
    """What the images of a group are on the way to at a step; only of streams with `previews`.

    index: of the step, from 0, of `total`. Then, for each image: keys: class and index, as '4.0'; l_bn: of the preview,
    None where the classifier has no statistics; pngs: small pictures, as PNG in base64.
    """

    kind: ClassVar[str] = "preview"
    task: str
    index: int
    total: int
    keys: tuple[str, ...]
    l_bn: tuple[float | None, ...]
    pngs: tuple[str, ...]


@dataclass(frozen=True)
class ImageMade(Event):
    """An image is finished and, where a run writes, on the disk.

    l_bn: NaN where the classifier has no statistics, null in JSON. skipped: guided steps that were not taken.
    """

    kind: ClassVar[str] = "image"
    class_index: int
    index: int
    label: str
    confidence: float
    l_bn: float
    skipped: int = 0


@dataclass(frozen=True)
class EpochEnded(Event):
    """A class went through one epoch of token learning, which is saved. Epoch 0 is the plain prompt.

    accuracy, loss: of the images that the loss reads.
    """

    kind: ClassVar[str] = "epoch"
    task: str
    class_index: int
    label: str
    epoch: int
    accuracy: float
    loss: float


@dataclass(frozen=True)
class MemoryRanOut(Event):
    """A phase ran out of memory and goes on with fewer images at once."""

    kind: ClassVar[str] = "memory"
    phase: str
    images_before: int
    images_now: int


@dataclass(frozen=True)
class Noted(Event):
    """A sentence on something that a person might want to know."""

    kind: ClassVar[str] = "note"
    text: str


@dataclass(frozen=True)
class Summarised(Event):
    """How far a run in parts is, once a minute.

    done, total: parts. seconds_left: roughly; None before a part is done. detail: a few words on the workers.
    """

    kind: ClassVar[str] = "summary"
    task: str
    done: int
    total: int
    seconds_left: float | None
    detail: str = ""

    @property
    def text(self) -> str:
        """The line that a person reads."""
        minutes = None if self.seconds_left is None else round(self.seconds_left / 60)
        if minutes is None:
            left = "time left not known yet"
        elif minutes < 2:
            left = "a minute left"
        elif minutes < 120:
            left = f"about {minutes} min left"
        else:
            left = f"about {minutes // 60} h {minutes % 60} min left"
        words = [f"{self.done:,} of {self.total:,} parts are done", self.detail, left]
        return "; ".join(filter(None, words))


@dataclass(frozen=True)
class Finished(Event):
    """A task is done. seconds: of this call; peak_bytes: the most memory it took, 0 if not measured."""

    kind: ClassVar[str] = "finished"
    task: str
    seconds: float = 0.0
    peak_bytes: int = 0


class Events:
    """The event stream of one run. Each event is passed to every watcher, in the order in which these were given.

    Args:
        watchers: functions that are called with each event.
        losses: include the loss in `Stepped`. Reading it makes a GPU finish each step before the next is queued.
        previews: emit small previews at each step, which runs a decoder and the classifier. Images stay the same.
    """

    def __init__(
        self, *watchers: Callable[[Event], object], losses: bool = False, previews: bool = False
    ) -> None:
        self._watchers = watchers
        self._cancelled = False
        self.losses = losses
        self.previews = previews

    def emit(self, event: Event) -> None:
        """Call each watcher with an event. Raises Cancelled after a call of `cancel`."""
        if self._cancelled:
            raise Cancelled(
                "the run was cancelled, expected to go on later: call the same again to resume where it stopped."
            )
        for watch in self._watchers:
            watch(event)

    @contextmanager
    def task(self, name: str, total: float | None, done: float = 0) -> Iterator["Task"]:
        """Report the start and end of a task; after an exception in the block no end is reported."""
        self.emit(Started(name, total, done))
        task = Task(self, name)
        yield task
        self.emit(Finished(name, round(task.seconds, 3), task.peak_bytes))

    def cancel(self) -> None:
        """Stop the run at its next event. May be called from any thread, and from a watcher."""
        self._cancelled = True

    @property
    def cancelled(self) -> bool:
        return self._cancelled


class Task:
    """One task of a stream. peak_bytes: what its end will report."""

    def __init__(self, events: Events, name: str) -> None:
        self.events, self.name = events, name
        self.peak_bytes = 0
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    def progress(self, units: float = 1, detail: str = "") -> None:
        """Report some units of work as done."""
        self.events.emit(Progressed(self.name, units, detail))


Advance = Callable[[float], object]
"""Reports so many units of work as done: `Task.progress`, as a function is given it that knows nothing of its task."""
SILENT = Events()
"""A stream that nobody watches and nobody cancels: the default of what reports."""
