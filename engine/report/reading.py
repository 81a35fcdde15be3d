"""Read a data set for a page: its images, and what is counted over them."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine.datasets.dataset import ImageFile, read_dataset
from engine.datasets.part_reading import content_of, no_picture
from engine.datasets.run_record import RUN, read_run
from engine.errors import OutputError
from engine.report.overview import (
    OF_EACH,
    ClassOverview,
    DatasetOverview,
    ImageOverview,
    class_names,
)
from engine.report.pictures import (
    Picture,
    embedded,
    first_of_each,
    near_duplicates,
    read_picture,
)
from engine.settings.report import SHOWN

NO_LOGITS = np.empty(0, np.float32)
MOST_PAIRS = 6
"""Pairs that look alike that are shown."""
PAGE_BYTES, LEAST_BYTES = 10_000_000, 5_000
"""What the pictures of a page take together, and what each of them may take however many there are.

A browser needs about a second for 20 MB.
"""


def dataset_overview(folder: Path, shown: int = SHOWN) -> DatasetOverview:
    """Read a finished data set. Raises OutputError for one that is empty or none.

    shown: how many pictures are kept at most, the same number of each class.
    """
    record = read_run(folder) if (folder / RUN).exists() else None
    rows, predictions = [], []
    for file, row in read_dataset(folder):  # its logits may be a thousand numbers
        predictions.append(int(np.argmax(row.logits)))
        rows.append((file, replace(row, logits=NO_LOGITS)))
    if not rows:
        raise OutputError(f"{folder} has no images, expected some to report: generate it again.")
    classes = [row.class_index for _, row in rows]
    names = class_names(record) | {row.class_index: row.label for _, row in rows}
    order = sorted(range(len(rows)), key=lambda place: rows[place][1].confidence)
    chosen = _spread(classes, shown) | {*order[:OF_EACH], *order[-OF_EACH:]}
    most_bytes = max(LEAST_BYTES, PAGE_BYTES // len(chosen))
    images, digests, hashes = [], [], []
    for place, (file, row) in enumerate(rows):
        picture = _picture(file)
        digests.append(picture.digest)
        hashes.append(picture.difference_hash)
        predicted = predictions[place]
        images.append(
            ImageOverview(
                path=row.path,
                label=row.label,
                predicted=names.get(predicted, f"class {predicted}"),
                confidence=row.confidence,
                l_bn=row.l_bn,
                seed=row.seed,
                prompt=row.prompt,
                picture=embedded(picture.thumb, most_bytes) if place in chosen else "",
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


def _picture(file: ImageFile) -> Picture:
    """The picture of a row. Raises OutputError where it is not there, or is none."""
    content = content_of(file)
    try:
        return read_picture(content)
    except (OSError, SyntaxError, ValueError) as error:
        raise no_picture(file, error) from error
