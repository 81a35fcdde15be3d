"""The sets of images that are compared, and the images that students are measured on.

Rows have equal numbers of each class, unless the settings leave each its own.

original   images of the training set, where the user has them: what the others are held against
(names)    further sets that are compared
folder     the data set in question
plain      the prior's images without the classifier's guidance
stream     more of the folder's images, made while a student learns
noise      Gaussian noise: what the teacher's soft labels alone are worth
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.classifiers import Classifier
from engine.datasets.dataset import has_manifest, read_dataset
from engine.downstream.origins import check_plain, other_classifiers, warn_of_others, warn_of_test
from engine.downstream.pixels import Images, read_pixels, to_bytes
from engine.downstream.sources import (
    FOLDER,
    NOISE,
    PLAIN,
    Inputs,
    LabelledSet,
    check_classes,
    other_set,
    own_folder,
)
from engine.downstream.stream import Stream
from engine.errors import ConfigError
from engine.settings.downstream import Comparison

SELECTION_SEED = 0
"""Which images of a set are taken where it has more than another, and which are held out: the same in every run."""


Row = Images | Stream
"""What a network learns from."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sets:
    """Rows by name, and the images that all are measured on.

    tested: whether those are real images of known classes, and not a held-out part of the folder.
    """

    rows: dict[str, Row]
    test: Images
    tested: bool
    warnings: tuple[str, ...]


def load_sets(
    classifier: Classifier, inputs: Inputs, comparison: Comparison, stored_labels: bool
) -> Sets:
    """Read what the inputs name, as the classifier's network reads it.

    stored_labels: whether rows carry the logits of their manifests, which must then be of this classifier. Raises
    ConfigError where sets and classifier do not belong together, OutputError where the folder is no finished data set.
    """
    rng = torch.Generator().manual_seed(SELECTION_SEED)
    folder = own_folder(classifier, inputs.folder)
    if inputs.plain is not None:
        check_plain(inputs.plain, inputs.folder)
    classes = folder.counts()
    measured, places = _measured_on(classifier, inputs, folder, comparison.held_out, rng)
    if measured is folder:
        folder = folder.without(places)
    sources = _sources(classifier, inputs, folder, classes)
    counts = {name: source.counts() for name, source in sources.items()}
    warnings: tuple[str, ...] = ()
    if comparison.equal_sizes:
        common, warnings = _common(list(sources.values()), classifier.labels)
        counts = dict.fromkeys(sources, common)
    rows: dict[str, Row] = {
        name: _read(source, source.drawn(counts[name], rng), classifier, stored_labels)
        for name, source in sources.items()
    }
    if comparison.noise:
        rows[NOISE] = _noise(len(rows[FOLDER]), classifier, rng)
    test = _read(measured, places, classifier, False)
    said = warn_of_others(inputs.folder, classifier)
    if inputs.test is not None:
        trained_on = {**inputs.real, FOLDER: inputs.folder, PLAIN: inputs.plain}
        lacking = [
            classifier.labels[number]
            for number in sorted(classes.keys() - measured.counts().keys())
        ]
        said += warn_of_test(inputs.test, trained_on, lacking)
    return Sets(rows=rows, test=test, tested=inputs.test is not None, warnings=(*said, *warnings))


def _measured_on(
    classifier: Classifier,
    inputs: Inputs,
    folder: LabelledSet,
    held_out: float,
    rng: torch.Generator,
) -> tuple[LabelledSet, list[int]]:
    """The set that all rows are measured on, and the places of its images: test images, or a part of the folder."""
    if inputs.test is None:
        return folder, folder.drawn(_held_out(folder.counts(), held_out, inputs.folder), rng)
    test = other_set("test", inputs.test, inputs.domain, classifier, folder.counts())
    return test, torch.where(test.classes >= 0)[0].tolist()


def _sources(
    classifier: Classifier, inputs: Inputs, folder: LabelledSet, classes: Counter[int]
) -> dict[str, LabelledSet]:
    """The sets that rows learn from, by name. classes: of the whole folder, with what is held out."""
    sources = {
        name: other_set(name, path, inputs.domain, classifier, classes)
        for name, path in inputs.real.items()
    }
    sources[FOLDER] = folder
    if inputs.plain is not None:
        sources[PLAIN] = other_set(PLAIN, inputs.plain, None, classifier, classes)
    for source in sources.values():
        check_classes(source.name, source.counts(), folder.counts(), classifier.labels)
    return sources


def _held_out(classes: Counter[int], share: float, folder: Path) -> Counter[int]:
    if min(classes.values()) < 2:
        raise ConfigError(
            f"{folder} has a class of one image, expected at least 2 of each without test images: one is held out. "
            "Generate more, or give `test`."
        )
    return Counter(
        {number: min(count - 1, max(1, round(share * count))) for number, count in classes.items()}
    )


def _common(
    sources: list[LabelledSet], labels: Sequence[str]
) -> tuple[Counter[int], tuple[str, ...]]:
    """The number of images of each class that every source has, and a sentence for each that limits it."""
    available = {source.name: source.counts() for source in sources}
    wanted = available[FOLDER]
    common = Counter(
        {number: min(counts[number] for counts in available.values()) for number in wanted}
    )
    lacking = [labels[number] for number in sorted(wanted) if common[number] < wanted[number]]
    if not lacking:
        return common, ()
    return common, (
        f"{common.total()} images a row where the folder has {wanted.total()}: another set has fewer of "
        f"{', '.join(lacking[:10])}.",
    )


def _read(
    source: LabelledSet, places: list[int], classifier: Classifier, stored_labels: bool
) -> Images:
    logits = None
    if stored_labels and has_manifest(source.images.path):
        _check_teacher(source.images.path, classifier)
        wanted = set(places)
        stored = {
            place: torch.from_numpy(row.logits.copy())
            for place, (_, row) in enumerate(read_dataset(source.images.path))
            if place in wanted
        }
        logits = torch.stack([stored[place] for place in places])
    pixels = read_pixels(source.images, places, classifier.preprocess)
    return Images(pixels, source.classes[places], logits)


def _check_teacher(folder: Path, classifier: Classifier) -> None:
    others = other_classifiers(folder, classifier)
    if others:
        raise ConfigError(
            f"the soft labels in {folder} are of another classifier, {', '.join(others)}, expected "
            f"{classifier.name!r} ({classifier.fingerprint}): set soft_labels to 'online', which asks the classifier "
            "itself."
        )


def _noise(number: int, classifier: Classifier, rng: torch.Generator) -> Images:
    """Gaussian pixels, of mean 0 and variance 1 once the network has normalised them, cut to [0, 1]."""
    reads = classifier.preprocess
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (reads.mean, reads.std))
    pixels = to_bytes(mean + std * torch.randn(number, 3, *reads.crop, generator=rng))
    return Images(pixels, torch.full((number,), -1))
