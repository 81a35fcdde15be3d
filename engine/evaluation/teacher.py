"""What a classifier says of measured images: from the manifest of the run that made them, or by running it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from engine.classifiers import Classifier
from engine.classifiers.statistics import Statistics
from engine.datasets.dataset import read_dataset
from engine.datasets.manifest import MANIFEST
from engine.datasets.names import class_folders
from engine.errors import ConfigError
from engine.evaluation.images import Pooled
from engine.events import Advance
from engine.guidance.domain import moment_distance
from engine.guidance.moments import merged, recording_moments
from engine.types import Moments

BY_IMAGE = ("teacher_accuracy", "teacher_confidence", "l_bn")
"""What is known of each image: 1 where its class is named, else 0; the probability of its class; its own L_BN.

L_BN is NaN where the classifier has no statistics.
"""


def by_manifest(folders: Sequence[Path]) -> Tensor | None:
    """`BY_IMAGE` of the images of data sets of ours, (3, N) float64; None where a folder is none."""
    if not all((folder / MANIFEST).exists() for folder in folders):
        return None
    rows = [
        (float(row.logits.argmax() == row.class_index), row.confidence, row.l_bn)
        for folder in folders
        for _, row in read_dataset(folder)
    ]
    return torch.tensor(rows, dtype=torch.float64).T


@torch.no_grad()
def by_classifier(
    images: Pooled,
    classifier: Classifier,
    batch: int,
    advance: Advance = lambda _: None,
) -> tuple[Tensor, float | None]:
    """`BY_IMAGE` of any labelled images, (3, N) float64, and the published L_BN of the moments of all of them.

    An image's own L_BN is biased: one image has other moments than a set, and those of a set were stored. Moments are
    merged batch by batch. Without statistics there is no L_BN: NaN by image, None of all. Raises ConfigError where a
    label is none of the classifier's.
    """
    classes = class_of_each(images, classifier)
    known = classifier.statistics
    found: list[Tensor] = []
    moments: list[Moments] = []
    seen = 0
    for part in images.batches(batch):
        truth = classes[seen : seen + len(part)]
        if isinstance(known, Statistics):
            with recording_moments(known.taps, per_image=True) as taken:
                logits = classifier.logits(part.to(classifier.device)).cpu()
                distances = moment_distance(taken, known.stored).cpu()
                now = [_together(one) for one in taken]
            moments = merged(moments, now, seen, len(part))
        else:
            logits = classifier.logits(part.to(classifier.device)).cpu()
            distances = logits.new_full((len(part),), torch.nan)
        confidence = logits.softmax(1)[torch.arange(len(part)), truth]
        found.append(torch.stack([(logits.argmax(1) == truth).double(), confidence, distances]))
        seen += len(part)
        advance(len(part))
    if not isinstance(known, Statistics):
        return torch.cat(found, 1), None
    return torch.cat(found, 1), moment_distance(moments, known.stored).item()


def class_of_each(images: Pooled, classifier: Classifier) -> Tensor:
    """The classifier's number of each image's class, (N,), by its label or that label's folder name."""
    labels = images.labels()
    numbers = class_numbers(classifier)
    unknown = sorted(set(labels) - set(numbers))
    if unknown:
        raise ConfigError(
            f"the images of {images.path} are in folders or of labels {', '.join(map(repr, unknown[:5]))}, expected "
            f"the classes of classifier {classifier.name!r}: {', '.join(classifier.labels[:20])}. Put each class in a "
            "folder of its name, or name the column `label` so; without labels leave `classifier` out."
        )
    return torch.tensor([numbers[label] for label in labels])


def class_numbers(classifier: Classifier) -> dict[str, int]:
    """The number of each class, by the name of its folder and by its label, which has precedence."""
    folders = class_folders(dict(enumerate(classifier.labels)))
    return {name: number for number, name in folders.items()} | {
        label: number for number, label in enumerate(classifier.labels)
    }


def _together(moments: Moments) -> Moments:
    """Moments (C,) over images of one size from those of each image (N, C)."""
    spread = moments.mean.var(0, correction=0)
    return Moments(moments.mean.mean(0), moments.var.mean(0) + spread)
