"""What a page says of a data set: counts and shares by class, what the teacher mistakes, and single images."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.datasets.dataset import read_dataset
from engine.datasets.run_record import RUN, RunRecord, read_run
from engine.errors import OutputError
from engine.report.pictures import alike, embedded, same, seen

SHOWN = 2000
"""Images of a data set that a page holds at most, unless it is asked for more."""
OF_EACH = 12
"""The best and the worst images that are shown by themselves."""
NAMED = 3
"""The weakest classes that are named."""
WEAK = 0.5
"""Classes of which the teacher recognises less are named."""


@dataclass(frozen=True)
class ImageFacts:
    """One image. guess: the class that the teacher sees. picture: a data URI, "" where the page does not hold it."""

    path: str
    label: str
    guess: str
    confidence: float
    l_bn: float
    seed: int
    prompt: str
    picture: str = ""

    @property
    def recognised(self) -> bool:
        return self.guess == self.label


@dataclass(frozen=True)
class ClassFacts:
    """One class. recognised, confidence: means over its images, in [0, 1]. mistaken: for which class most often."""

    label: str
    images: int
    recognised: float
    confidence: float
    l_bn: float
    mistaken: str


@dataclass(frozen=True)
class DatasetFacts:
    """A data set.

    confusion: images by (class, guess). near: pairs of places in `images` that look alike.
    """

    folder: str
    images: tuple[ImageFacts, ...]
    classes: tuple[ClassFacts, ...]
    confusion: Mapping[tuple[str, str], int]
    duplicates: int
    near: tuple[tuple[int, int], ...]
    record: RunRecord | None = field(default=None)

    @property
    def recognised(self) -> float:
        """The share of images whose class the teacher sees."""
        return sum(one.recognised for one in self.images) / len(self.images)

    @property
    def weak(self) -> tuple[ClassFacts, ...]:
        """The classes that the teacher recognises least, the worst first."""
        found = [one for one in self.classes if one.recognised < WEAK]
        return tuple(sorted(found, key=lambda one: one.recognised))

    def best(self) -> list[ImageFacts]:
        """The images that the teacher is surest of."""
        return sorted(self._shown(), key=lambda one: -one.confidence)[:OF_EACH]

    def worst(self) -> list[ImageFacts]:
        """The images that the teacher doubts most."""
        return sorted(self._shown(), key=lambda one: one.confidence)[:OF_EACH]

    def _shown(self) -> list[ImageFacts]:
        return [one for one in self.images if one.picture]


def dataset_facts(folder: Path, shown: int = SHOWN) -> DatasetFacts:
    """Read a finished data set. Raises OutputError for one that is empty or none.

    shown: how many pictures are kept at most, the same number of each class.
    """
    record = read_run(folder) if (folder / RUN).exists() else None
    rows = list(read_dataset(folder))
    if not rows:
        raise OutputError(f"{folder} has no images, expected some to report: generate it again.")
    names = {row.class_index: row.label for _, row in rows}
    names |= {int(number): label for number, label in (record.labels if record else {}).items()}
    chosen = _spread([row.class_index for _, row in rows], shown)
    images, digests, looks = [], [], []
    for place, (file, row) in enumerate(rows):
        known = seen(file.read_bytes())
        digests.append(known.digest)
        looks.append(known.look)
        guess = int(np.argmax(row.logits))
        images.append(
            ImageFacts(
                path=row.path,
                label=row.label,
                guess=names.get(guess, f"class {guess}"),
                confidence=row.confidence,
                l_bn=row.l_bn,
                seed=row.seed,
                prompt=row.prompt,
                picture=embedded(known.thumb) if place in chosen else "",
            )
        )
    twins = same(digests)
    equal = {frozenset(pair) for group in twins for pair in _pairs_of(group)}
    pairs = alike(looks, [row.class_index for _, row in rows])
    return DatasetFacts(
        folder=str(folder),
        images=tuple(images),
        classes=_by_class(images),
        confusion=Counter((one.label, one.guess) for one in images),
        duplicates=sum(len(group) - 1 for group in twins),
        near=tuple(pair for pair in pairs if frozenset(pair) not in equal),
        record=record,
    )


def closing_line(facts: DatasetFacts) -> str:
    """What a run says at its end: what the teacher recognises, where it fails, and what may help.

    Tokens may, where a prior drew images without them and most classes did well.
    """
    said = f"the classifier recognises {facts.recognised:.0%} of the images"
    if not facts.weak:
        return said
    worst = ", ".join(f"{one.label} {one.recognised:.0%}" for one in facts.weak[:NAMED])
    more = f" and {len(facts.weak) - NAMED} more" if len(facts.weak) > NAMED else ""
    said += f"; least of {worst}{more}"
    made = {} if facts.record is None else facts.record.facts
    if "prior" not in made or made.get("tokens") or 2 * len(facts.weak) > len(facts.classes):
        return said
    names = " ".join(_quoted(one.label) for one in facts.weak[:NAMED])
    return f"{said}. Tokens may help there: ddis learn-tokens --classes {names}"


def settings_rows(made: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as lines of a table: names with dots, and values."""
    found: list[tuple[str, str]] = []
    for name, value in made.items():
        if isinstance(value, Mapping):
            found += settings_rows(value, f"{prefix}{name}.")
        elif value not in (None, [], ""):
            found.append((f"{prefix}{name}", _shown(value)))
    return found


def _by_class(images: Sequence[ImageFacts]) -> tuple[ClassFacts, ...]:
    grouped: dict[str, list[ImageFacts]] = {}
    for image in images:
        grouped.setdefault(image.label, []).append(image)
    return tuple(_class(label, members) for label, members in grouped.items())


def _class(label: str, members: Sequence[ImageFacts]) -> ClassFacts:
    wrong = Counter(one.guess for one in members if not one.recognised)
    distances = [one.l_bn for one in members if math.isfinite(one.l_bn)]
    return ClassFacts(
        label=label,
        images=len(members),
        recognised=sum(one.recognised for one in members) / len(members),
        confidence=sum(one.confidence for one in members) / len(members),
        l_bn=sum(distances) / len(distances) if distances else math.nan,
        mistaken=wrong.most_common(1)[0][0] if wrong else "",
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


def _pairs_of(group: Sequence[int]) -> list[tuple[int, int]]:
    return [(one, other) for place, one in enumerate(group) for other in group[place + 1 :]]


def _quoted(label: str) -> str:
    return f'"{label}"' if " " in label else label


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        texts = [str(one) for one in value]
        return ", ".join(texts[:12]) + (f" and {len(texts) - 12} more" if len(texts) > 12 else "")
    return f"{value:g}" if isinstance(value, float) else str(value)
