"""What a comparison reads: a finished data set of the classifier's, and other sets of images of the same classes."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from engine.classifiers import Classifier
from engine.datasets.dataset import has_manifest, read_dataset
from engine.downstream.origins import check_plain
from engine.errors import ConfigError
from engine.evaluation.images import IMAGE_SETS, ImageSet, open_images
from engine.evaluation.teacher import class_numbers

ORIGINAL, FOLDER, PLAIN, NOISE = "original", "folder", "plain", "noise"
STREAM = "stream"
PLAIN_IMAGES, STREAM_IMAGES = "plain-images", "stream-images"
MADE_HERE = (PLAIN_IMAGES, STREAM_IMAGES)
"""The data sets of the plain prior and of the stream, where they are made for the comparison."""
ROW_NAME = re.compile(r"[A-Za-z0-9_-]+")
"""What a row may be called: its runs lie in a folder of that name."""
TAKEN = (ORIGINAL, FOLDER, PLAIN, NOISE, STREAM, "test", *MADE_HERE)
"""Names that no further row can have."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Where the sets lie.

    more: further rows by name. domain: only these rows of the parquet files among original, test and further sets;
    folders are whole.
    """

    folder: Path
    original: Path | None = None
    plain: Path | None = None
    test: Path | None = None
    domain: str | None = None
    more: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.more:
            if not ROW_NAME.fullmatch(name) or name.casefold() in TAKEN:
                raise ConfigError(
                    f"a row is named {name!r}, expected letters, digits, - and _, and none of {', '.join(TAKEN)}: "
                    "choose a name such as 'other'."
                )

    @classmethod
    def of(
        cls,
        folder: str | Path,
        original: str | Path | None,
        test: str | Path | None,
        domain: str | None,
        rows: Mapping[str, str | Path] | None = None,
    ) -> "Inputs":
        """The sets by the arguments of `distill` and its kin, but for the plain images, which may have to be drawn."""
        more = {name: Path(path).expanduser() for name, path in (rows or {}).items()}
        return cls(
            folder=Path(folder).expanduser(),
            original=path_of(original),
            test=path_of(test),
            domain=domain,
            more=more,
        )

    @property
    def real(self) -> dict[str, Path]:
        """The rows of images that were there before, by name."""
        original = {} if self.original is None else {ORIGINAL: self.original}
        return original | dict(self.more)


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """A set and the class number of each of its images."""

    name: str
    images: ImageSet
    classes: Tensor

    def counts(self) -> Counter[int]:
        return Counter(number for number in self.classes.tolist() if number >= 0)

    def drawn(self, counts: Counter[int], rng: torch.Generator) -> list[int]:
        """Places of so many images of each class, drawn at random, ascending."""
        taken = []
        for number in sorted(counts):
            (places,) = torch.where(self.classes == number)
            taken += places[torch.randperm(len(places), generator=rng)[: counts[number]]].tolist()
        return sorted(taken)

    def without(self, places: Sequence[int]) -> "LabelledSet":
        classes = self.classes.clone()
        classes[places] = -1
        return LabelledSet(self.name, self.images, classes)


def own_folder(classifier: Classifier, folder: Path) -> LabelledSet:
    """A finished data set whose classes are the classifier's."""
    if not has_manifest(folder):
        raise ConfigError(
            f"{folder} is no data set folder, expected one that `ddis generate` wrote for this classifier: check the "
            "path."
        )
    classes: list[int] = []
    for _, row in read_dataset(folder):
        if classifier.labels[row.class_index : row.class_index + 1] != (row.label,) or len(
            row.logits
        ) != len(classifier.labels):
            raise ConfigError(
                f"{folder} has class {row.class_index}, {row.label!r}, of {len(row.logits)}, expected the classes of "
                f"classifier {classifier.name!r}: {', '.join(classifier.labels[:20])}. Name the classifier that the "
                "folder was generated for."
            )
        classes.append(row.class_index)
    if not classes:
        raise ConfigError(
            f"{folder} has no images, expected some of each class: generate it again."
        )
    return LabelledSet(FOLDER, open_images(folder), torch.tensor(classes))


def other_set(
    name: str, path: Path, domain: str | None, classifier: Classifier, wanted: Counter[int]
) -> LabelledSet:
    """Another set; images of classes that the folder lacks count as having none."""
    images = open_images(path, None if path.is_dir() else domain, takes=IMAGE_SETS)
    labels = images.labels()
    numbers = class_numbers(classifier)
    unknown = sorted({label for label in labels if label not in numbers})
    if unknown:
        raise ConfigError(
            f"the {name} images of {path} are of {', '.join(map(repr, unknown[:5]))}, expected classes of classifier "
            f"{classifier.name!r}: {', '.join(classifier.labels[:20])}. Name folders or the column `label` so, or take "
            "the others out."
        )
    classes = torch.tensor([numbers[label] for label in labels])
    classes[~torch.isin(classes, torch.tensor(sorted(wanted)))] = -1
    if not (classes >= 0).any():
        raise ConfigError(
            f"the {name} images of {path} have none of the folder's classes, expected some of "
            f"{', '.join(classifier.labels[number] for number in sorted(wanted))}: give a set of these classes."
        )
    return LabelledSet(name, images, classes)


def check_classes(
    name: str, counts: Counter[int], wanted: Counter[int], labels: Sequence[str]
) -> None:
    """Raise ConfigError where a set that rows learn from lacks a class of the folder."""
    for number in wanted:
        if not counts[number]:
            raise ConfigError(
                f"the {name} images have no {labels[number]!r}, expected some of each class of the folder: all "
                "rows learn the same classes. Add some, or leave the set out."
            )


def check_ahead(classifier: Classifier, inputs: Inputs, images_per_class: int) -> None:
    """Raise what `load_sets` will where the folder, which is to be made first, has so many images of every class."""
    least = 2 if inputs.test is None else 1
    if images_per_class < least:
        raise ConfigError(
            f"images_per_class is {images_per_class}, expected at least {least}"
            f"{' without test images: one of each class is held out' * (least - 1)}. Raise it"
            f"{', or give `test`' * (least - 1)}."
        )
    wanted = Counter(dict.fromkeys(range(len(classifier.labels)), images_per_class))
    if inputs.test is not None:
        other_set("test", inputs.test, inputs.domain, classifier, wanted)
    for name, path in inputs.real.items():
        found = other_set(name, path, inputs.domain, classifier, wanted)
        check_classes(name, found.counts(), wanted, classifier.labels)
    if inputs.plain is not None:
        check_plain(inputs.plain, inputs.folder)
        found = other_set(PLAIN, inputs.plain, None, classifier, wanted)
        check_classes(PLAIN, found.counts(), wanted, classifier.labels)


def path_of(path: str | Path | None) -> Path | None:
    """A path that may be missing, with the user's home in place of ~."""
    return None if path is None else Path(path).expanduser()
