"""What a page says of a data set: counts and shares by class, the classifier's mistakes, and single images."""

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.datasets.dataset import ImageFile, read_dataset
from engine.datasets.run_record import RUN, RunRecord, read_run
from engine.errors import OutputError, brief
from engine.report.pictures import (
    Picture,
    embedded,
    first_of_each,
    near_duplicates,
    read_picture,
)
from engine.settings.report import SHOWN

OF_EACH = 12
"""The most and the least confident images that are shown by themselves."""
MOST_PAIRS = 6
"""Pairs that look alike that are shown."""
NAMED = 3
"""The weakest classes that are named."""
WEAK = 0.5
"""Classes of which the classifier recognises less are named."""


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

    def most_confident(self) -> list[ImageOverview]:
        """The images of whose class the classifier is surest."""
        return sorted(self.images, key=lambda one: -one.confidence)[:OF_EACH]

    def least_confident(self) -> list[ImageOverview]:
        """The images of whose class it is least sure."""
        return sorted(self.images, key=lambda one: one.confidence)[:OF_EACH]


def dataset_overview(folder: Path, shown: int = SHOWN) -> DatasetOverview:
    """Read a finished data set. Raises OutputError for one that is empty or none.

    shown: how many pictures are kept at most, the same number of each class.
    """
    record = read_run(folder) if (folder / RUN).exists() else None
    rows = list(read_dataset(folder))
    if not rows:
        raise OutputError(f"{folder} has no images, expected some to report: generate it again.")
    classes = [row.class_index for _, row in rows]
    names = class_names(record) | {row.class_index: row.label for _, row in rows}
    order = sorted(range(len(rows)), key=lambda place: rows[place][1].confidence)
    chosen = _spread(classes, shown) | {*order[:OF_EACH], *order[-OF_EACH:]}
    images, digests, hashes = [], [], []
    for place, (file, row) in enumerate(rows):
        picture = _picture(file, folder / row.path)
        digests.append(picture.digest)
        hashes.append(picture.difference_hash)
        predicted = int(np.argmax(row.logits))
        images.append(
            ImageOverview(
                path=row.path,
                label=row.label,
                predicted=names.get(predicted, f"class {predicted}"),
                confidence=row.confidence,
                l_bn=row.l_bn,
                seed=row.seed,
                prompt=row.prompt,
                picture=embedded(picture.thumb) if place in chosen else "",
            )
        )
    different = first_of_each(digests)
    number, near = near_duplicates(
        [hashes[place] for place in different], [classes[place] for place in different], MOST_PAIRS
    )
    return DatasetOverview(
        folder=str(folder),
        images=tuple(images),
        classes=_by_class(images),
        confusion=Counter((one.label, one.predicted) for one in images),
        duplicates=len(images) - len(different),
        near_duplicates=number,
        near=tuple((different[one], different[other]) for one, other in near),
        record=record,
    )


def closing_line(overview: DatasetOverview) -> str:
    """What a run says at its end: what the classifier recognises, where it fails, and what may help.

    Tokens may, where a prior drew images without them and most classes did well.
    """
    said = f"the classifier recognises {overview.recognised:.0%} of the images"
    if not overview.weak:
        return said
    worst = ", ".join(f"{one.label} {one.recognised:.0%}" for one in overview.weak[:NAMED])
    more = f" and {len(overview.weak) - NAMED} more" if len(overview.weak) > NAMED else ""
    said += f"; lowest: {worst}{more}"
    made = {} if overview.record is None else overview.record.facts
    if "prior" not in made or made.get("tokens") or 2 * len(overview.weak) > len(overview.classes):
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


def _by_class(images: Sequence[ImageOverview]) -> tuple[ClassOverview, ...]:
    grouped: dict[str, list[ImageOverview]] = {}
    for image in images:
        grouped.setdefault(image.label, []).append(image)
    return tuple(_class(label, members) for label, members in grouped.items())


def _class(label: str, members: Sequence[ImageOverview]) -> ClassOverview:
    wrong = Counter(one.predicted for one in members if not one.recognised)
    distances = [one.l_bn for one in members if math.isfinite(one.l_bn)]
    return ClassOverview(
        label=label,
        images=len(members),
        recognised=sum(one.recognised for one in members) / len(members),
        confidence=sum(one.confidence for one in members) / len(members),
        l_bn=sum(distances) / len(distances) if distances else math.nan,
        confused_with=wrong.most_common(1)[0][0] if wrong else "",
    )


def _spread(classes: Sequence[int], shown: int) -> set[int]:
    """Places of the images that a page holds: the first of each class, as many of each as there is room for."""
    of_each = max(1, shown // len(set(classes)))
    met: Counter[int] = Counter()
    chosen: set[int] = set()
    for place, number in enumerate(classes):
        met[number] += 1
        if met[number] <= of_each and len(chosen) < shown:
            chosen.add(place)
    return chosen


def class_names(record: RunRecord | None) -> dict[int, str]:
    """The names of a classifier's classes by number, as far as the record of a run tells."""
    if record is None:
        return {}
    source = record.facts.get("request", record.made.get("request", {})).get("classifier", {})
    known = dict(enumerate(source.get("labels") or ())) if isinstance(source, Mapping) else {}
    return known | {int(number): label for number, label in record.labels.items()}


def _picture(file: ImageFile, where: Path) -> Picture:
    """The picture of a row. Raises OutputError where it is not there, or is none."""
    try:
        return read_picture(file.read_bytes())
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{where} cannot be read as a picture ({brief(error)}), expected the PNG that was written: delete it and "
            "run `ddis generate` again with the same settings, which makes it again."
        ) from error


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        texts = [str(one) for one in value]
        return ", ".join(texts[:12]) + (f" and {len(texts) - 12} more" if len(texts) > 12 else "")
    return f"{value:g}" if isinstance(value, float) else str(value)
