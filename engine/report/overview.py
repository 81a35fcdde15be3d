"""What a page says of a data set: counts and shares by class, the classifier's mistakes, and single images."""

import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from engine.datasets.run_record import RUN, RunRecord
from engine.facts import first_run

OF_EACH = 12
"""The most and the least confident images that are shown by themselves."""
MOST_CONFUSED = 15
"""Mistakes of the classifier that are listed where there are too many classes for a matrix."""
NAMED = 3
"""The weakest classes that are named."""
DOCTOR = "`ddis doctor` checks whether the classifier is read as it was trained"
PRIOR = "a larger prior (`--prior`) or names that it knows (`--labels`) may help"
WEAK = 0.5
"""Classes of which the classifier recognises less are named."""
ENOUGH = 8
"""Images of a class from which on its share says enough to learn a token for it."""


@dataclass(frozen=True)
class ImageOverview:
    """One image. predicted: the classifier's class. picture: a data URI, "" where the page does not hold it."""

    path: str
    label: str
    predicted: str
    confidence: float
    l_bn: float
    seed: int
    prompt: str
    picture: str = ""

    @property
    def recognised(self) -> bool:
        return self.predicted == self.label


@dataclass(frozen=True)
class ClassOverview:
    """One class. recognised, confidence: means over its images, in [0, 1]. confused_with: most often, or ""."""

    label: str
    images: int
    recognised: float
    confidence: float
    l_bn: float
    confused_with: str


class Confused(NamedTuple):
    """A mistake of the classifier: how many images of a class, and what share of them, it takes for another."""

    label: str
    predicted: str
    images: int
    share: float


@dataclass(frozen=True)
class DatasetOverview:
    """A data set.

    confusion: images by (class, predicted class). duplicates: images that equal an earlier one pixel for pixel.
    near_duplicates: pairs of one class that look alike; near: places in `images` of the first of them.
    """

    folder: str
    images: tuple[ImageOverview, ...]
    classes: tuple[ClassOverview, ...]
    confusion: Mapping[tuple[str, str], int]
    duplicates: int
    near_duplicates: int
    near: tuple[tuple[int, int], ...]
    record: RunRecord | None = field(default=None)

    @property
    def recognised(self) -> float:
        """The share of images whose class the classifier predicts."""
        return sum(one.recognised for one in self.images) / len(self.images)

    @property
    def weak(self) -> tuple[ClassOverview, ...]:
        """The classes that the classifier recognises least, the worst first."""
        found = [one for one in self.classes if one.recognised < WEAK]
        return tuple(sorted(found, key=lambda one: one.recognised))

    def by_confidence(self) -> list[tuple[str, list[ImageOverview]]]:
        """Titled lists without an image in common: those of whose class the classifier is most and least sure.

        Where one list holds all images, there is no other.
        """
        falling = sorted(self.images, key=lambda one: -one.confidence)
        if len(falling) <= OF_EACH:
            return [("From the most to the least confident", falling)]
        least = falling[OF_EACH:][-OF_EACH:]
        return [("Most confident", falling[:OF_EACH]), ("Least confident", least[::-1])]

    def most_confused(self) -> list[Confused]:
        """The mistakes that occur most often, the most frequent first."""
        of_class = {one.label: one.images for one in self.classes}
        wrong = {pair: images for pair, images in self.confusion.items() if pair[0] != pair[1]}
        return [
            Confused(label, predicted, images, images / of_class[label])
            for (label, predicted), images in Counter(wrong).most_common(MOST_CONFUSED)
        ]


def closing_line(overview: DatasetOverview) -> str:
    """What a run says at its end: what the classifier recognises, where it fails, and what may help.

    Tokens may, where a prior drew images without them, at least ENOUGH of a class, and most classes did well. Else the
    doctor tells whether the classifier is read as it was trained.
    """
    said = f"the classifier recognises {overview.recognised:.0%} of the images"
    if not overview.weak:
        return said
    worst = ", ".join(f"{one.label} {one.recognised:.0%}" for one in overview.weak[:NAMED])
    more = f" and {len(overview.weak) - NAMED} more" if len(overview.weak) > NAMED else ""
    said += f"; lowest: {worst}{more}"
    made = {} if overview.record is None else overview.record.facts
    if not made:
        return said
    if not made.get("prior"):
        return f"{said}. {DOCTOR}, and a method with a prior (`--method ddis`) may do better"
    if made.get("tokens") or 2 * len(overview.weak) > len(overview.classes):
        return f"{said}. {DOCTOR}; {PRIOR}"
    if min(one.images for one in overview.weak[:NAMED]) < ENOUGH:
        return said
    names = " ".join(shlex.quote(one.label) for one in overview.weak[:NAMED])
    run = shlex.quote(f"{overview.folder}/{RUN}")
    return (
        f"{said}. Tokens in place of these names may help: ddis learn-tokens --config {run} --preset instead --classes "
        f"{names} --out tokens.safetensors"
    )


def settings_rows(made: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as lines of a table: names with dots, and values."""
    found: list[tuple[str, str]] = []
    for name, value in made.items():
        if isinstance(value, Mapping):
            found += settings_rows(value, f"{prefix}{name}.")
        elif value not in (None, [], ""):
            found.append((f"{prefix}{name}", _shown(value)))
    return found


def class_names(record: RunRecord | None) -> dict[int, str]:
    """The names of a classifier's classes by number, as far as the record of a run tells."""
    if record is None:
        return {}
    source = first_run(record.made).get("request", {}).get("classifier", {})
    known = dict(enumerate(source.get("labels") or ())) if isinstance(source, Mapping) else {}
    return known | {int(number): label for number, label in record.labels.items()}


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        texts = [str(one) for one in value]
        return ", ".join(texts[:12]) + (f" and {len(texts) - 12} more" if len(texts) > 12 else "")
    return f"{value:g}" if isinstance(value, float) else str(value)
