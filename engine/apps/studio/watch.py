"""What is known of a run while it goes on, gathered from its events."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from engine.apps.studio.form import Row
from engine.apps.studio.pictures import data_uri, data_uri_of_png, name_of
from engine.datasets.dataset import read_dataset
from engine.datasets.manifest import MANIFEST
from engine.datasets.names import class_folders, image_place
from engine.datasets.run_record import RUN, read_run
from engine.errors import counted
from engine.events import (
    Event,
    ImageMade,
    MemoryRanOut,
    Noted,
    Previewed,
    Started,
    Stepped,
    Summarised,
)
from engine.image_key import ImageKey
from engine.methods.drawing import IMAGES

State = Literal["waiting", "loading", "running", "stopped", "done", "failed"]
MOST_KEPT = 240
"""Pictures that are kept of a run."""


@dataclass
class Shot:
    """One image as far as it is known. made: it is finished and on the disk."""

    src: str
    label: str = ""
    confidence: float | None = None
    l_bn: float | None = None
    made: bool = False

    @cached_property
    def name(self) -> str:
        """What the picture is asked for by; it follows from its content."""
        return name_of(self.src)


@dataclass
class Watch:
    """A watcher of one run's events (`engine.events.Events`), and what the page shows of it.

    done, total: images. step: of `steps`, of the group that is being made. curve: at each step, the sum of what was
    measured and of how many images: L_BN of previews, or an inversion's loss. printed: what the command said.
    """

    row: Row
    folder: Path
    state: State = "waiting"
    error: str = ""
    total: float = 0
    done: float = 0
    step: int = 0
    steps: int = 0
    shots: dict[ImageKey, Shot] = field(default_factory=dict)
    curve: dict[int, tuple[float, int]] = field(default_factory=dict)
    measures: str = "L_BN"
    notes: list[str] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)
    _labels: dict[int, str] = field(default_factory=dict)

    def __call__(self, event: Event) -> None:
        match event:
            case Started(task, total, done) if task == IMAGES:
                self.state, self.total, self.done = "running", total or 0, done
                self._find_earlier()
            case Previewed():
                self._preview(event)
            case Stepped(_, images, index, steps, loss):
                self.step, self.steps = index + 1, steps
                if loss is not None and (self.measures == "loss" or not self.curve):
                    self.measures = "loss"
                    self._measured(index, loss * images, images)
            case ImageMade():
                self._made(event)
            case Noted(text):
                self.note(text)
            case Summarised():
                self.note(event.text)
            case MemoryRanOut(phase, before, now):
                self.note(
                    f"memory ran out in {phase}: {counted(now, 'image')} at once, no longer {before}"
                )

    @property
    def means(self) -> list[tuple[int, float]]:
        """The step from 0, and the mean of the images, of what was measured."""
        return [(index, total / count) for index, (total, count) in sorted(self.curve.items())]

    def note(self, text: str) -> None:
        """Keep a sentence for the page, once."""
        if text not in self.notes:
            self.notes.append(text)

    def finish(self) -> None:
        """Read what the finished folder says of each image."""
        if (self.folder / MANIFEST).exists():
            for file, row in read_dataset(self.folder):
                if row.key in self.shots or len(self.shots) < MOST_KEPT:
                    src = data_uri(file.read_bytes())
                    self.shots[row.key] = Shot(src, row.label, row.confidence, row.l_bn, True)
        self.state = "done"

    def follow(self, earlier: "Watch") -> None:
        """Keep what an earlier watch of the same run knew: its finished images, and its curve if the run is done."""
        self.shots = {key: shot for key, shot in [*earlier.shots.items()] if shot.made}
        if earlier.state == "done":  # it makes no image again
            self.curve, self.steps = earlier.curve, earlier.steps
            self.measures = earlier.measures
        self.total, self.done = earlier.total, earlier.done

    def _preview(self, event: Previewed) -> None:
        self._know_labels()
        for name, distance, png in zip(event.keys, event.l_bn, event.pngs, strict=True):
            key = ImageKey(*map(int, name.split(".")))
            if distance is not None:
                self._measured(event.index, distance, 1)
            if key in self.shots or len(self.shots) < MOST_KEPT:
                label = self._labels.get(key.class_index, "")
                self.shots[key] = Shot(data_uri_of_png(png), label, None, distance)

    def _measured(self, index: int, value: float, count: int) -> None:
        total, before = self.curve.get(index, (0.0, 0))
        self.curve[index] = total + value, before + count

    def _made(self, event: ImageMade) -> None:
        self._know_labels()
        self.done += 1
        key = ImageKey(event.class_index, event.index)
        before = self.shots.get(key)
        if before is None and len(self.shots) >= MOST_KEPT:
            return
        src = before.src if before else ""
        if self._labels and (file := self._file(key)).exists():
            src = data_uri(file.read_bytes())
        self.shots[key] = Shot(src, event.label, event.confidence, event.l_bn, True)

    def _find_earlier(self) -> None:
        """Show the images that an interrupted run left in the folder. The page may look while they are read."""
        found: dict[ImageKey, Shot] = {}
        self._know_labels()
        for number, label in self._labels.items():
            for file in sorted(self._file(ImageKey(number, 0)).parent.glob("*.png")):
                if file.stem.isdecimal() and len(found) < MOST_KEPT:
                    key = ImageKey(number, int(file.stem))
                    src, earlier = data_uri(file.read_bytes()), self.shots.get(key)
                    if earlier is None or earlier.src != src:
                        earlier = Shot(src, label, made=True)
                    found[key] = earlier
        self.shots = found

    def _know_labels(self) -> None:
        if not self._labels and (self.folder / RUN).exists():
            self._labels = {int(n): label for n, label in read_run(self.folder).labels.items()}

    def _file(self, key: ImageKey) -> Path:
        return self.folder / image_place(class_folders(self._labels), key)
