"""A finished folder to look through: its images with what the classifier says of them, filtered and in an order."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from html import escape
from math import inf, isfinite
from pathlib import Path

from engine.apps.studio.pictures import data_uri
from engine.datasets.dataset import ImageFile, read_dataset
from engine.datasets.run_record import RUN, read_run
from engine.errors import OutputError
from engine.image_key import ImageKey
from engine.report.overview import class_names

PAGE = 60
"""Images on a page."""
MOST = 50_000
"""Images of a folder that is opened: their rows are held in memory."""
EVERY, RECOGNISED, MISTAKEN, DROPPED = "All", "Recognised", "Mistaken", "Dropped"
SHOWING = (EVERY, RECOGNISED, MISTAKEN, DROPPED)


@dataclass(frozen=True)
class Entry:
    """One image. predicted: the class that the classifier takes it for."""

    key: ImageKey
    label: str
    predicted: str
    confidence: float
    l_bn: float
    seed: int
    file: ImageFile

    @property
    def recognised(self) -> bool:
        return self.predicted == self.label

    @property
    def name(self) -> str:
        """The key as the page writes it."""
        return f"{self.key.class_index}.{self.key.index}"


@dataclass(frozen=True)
class Opened:
    """The images of a folder, in its order."""

    folder: str
    entries: tuple[Entry, ...]

    @property
    def labels(self) -> list[str]:
        return [*dict.fromkeys(entry.label for entry in self.entries)]

    @property
    def highest_l_bn(self) -> float:
        """0 where no image has one."""
        return max((one.l_bn for one in self.entries if isfinite(one.l_bn)), default=0.0)


ORDERS: dict[str, Callable[[Entry], float]] = {
    "As in the folder": lambda entry: 0,
    "Least confident first": lambda entry: entry.confidence,
    "Most confident first": lambda entry: -entry.confidence,
    "Lowest L_BN first": lambda entry: entry.l_bn,
    "Highest L_BN first": lambda entry: -entry.l_bn,
}


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What is shown. classes: all where none is named. confidence: at least, in [0, 1]. l_bn: at most."""

    classes: tuple[str, ...] = ()
    confidence: float = 0.0
    l_bn: float = inf
    showing: str = EVERY
    order: str = next(iter(ORDERS))

    def passes(self, entry: Entry, dropped: Collection[ImageKey]) -> bool:
        """Whether an image is shown; one without L_BN passes any limit of it."""
        kinds = {
            EVERY: True,
            RECOGNISED: entry.recognised,
            MISTAKEN: not entry.recognised,
            DROPPED: entry.key in dropped,
        }
        return (
            (not self.classes or entry.label in self.classes)
            and entry.confidence >= self.confidence
            and not entry.l_bn > self.l_bn
            and kinds[self.showing]
        )


def opened(folder: str) -> Opened:
    """Read a finished folder. Raises OutputError for anything else, and for one with too many images."""
    place = Path(folder).expanduser()
    names = class_names(read_run(place) if (place / RUN).exists() else None)
    entries: list[Entry] = []
    for file, row in read_dataset(place):
        if len(entries) == MOST:
            raise OutputError(
                f"{folder} has more than {MOST} images, expected fewer to look through: use `ddis select`, then open "
                "what it kept."
            )
        predicted = int(row.logits.argmax())
        same = predicted == row.class_index
        entries.append(
            Entry(
                key=row.key,
                label=row.label,
                predicted=row.label if same else names.get(predicted, f"class {predicted}"),
                confidence=row.confidence,
                l_bn=row.l_bn,
                seed=row.seed,
                file=file,
            )
        )
    if not entries:
        raise OutputError(f"{folder} has no images, expected some: choose another folder.")
    return Opened(str(place), tuple(entries))


def filtered(found: Opened, wanted: Filter, dropped: Collection[ImageKey]) -> list[Entry]:
    """The images that a filter shows, in its order."""
    passing = [entry for entry in found.entries if wanted.passes(entry, dropped)]
    return sorted(passing, key=ORDERS[wanted.order])


def grid(entries: list[Entry], page: int, dropped: Collection[ImageKey]) -> str:
    """A page of images as buttons that drop an image or take it back."""
    tiles = "".join(
        button(entry, entry.key in dropped) for entry in entries[page * PAGE : (page + 1) * PAGE]
    )
    return (
        f'<div class="tiles">{tiles}</div>' if tiles else '<div class="empty">No image passes</div>'
    )


def button(entry: Entry, dropped: bool) -> str:
    """One image: a button, pressed where it is dropped."""
    kind = "" if entry.recognised else ' class="wrong"'
    distance = f" · L_BN {entry.l_bn:.0f}" if isfinite(entry.l_bn) else ""
    about = f"{entry.label} {entry.key.index}, seed {entry.seed}, taken for {entry.predicted}"
    name = entry.label if entry.recognised else f"{entry.label} → {entry.predicted}"
    try:
        picture = f'<img src="{data_uri(entry.file.read_bytes())}" alt="{escape(entry.label)}">'
    except OSError:
        picture, about = "<i></i>", f"{about}: its file cannot be read"
    return (
        f'<button type="button" class="tile made" data-key="{entry.name}" title="{escape(about)}" '
        f'aria-pressed="{str(dropped).lower()}"><span class="frame">'
        f"{picture}</span>"
        f'<span class="label" style="grid-column:1/-1">{escape(name)}</span>'
        f'<span style="grid-column:1/-1"{kind}>{entry.confidence:.0%}{distance}</span></button>'
    )
