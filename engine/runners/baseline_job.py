"""A request for images by a method that needs no prior: the classifier, its classes and the method's settings."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.classifiers import Classifier, load_classifier
from engine.classifiers.base import class_numbers
from engine.guidance.domain import judged
from engine.methods.descent import Iteration, OnIteration
from engine.methods.registry import check_fit, settings_of, synthesise
from engine.runners.job import check_counts, mixed_groups
from engine.settings.inversion import InversionSettings
from engine.types import ImageKey, Sample, group_rng


@dataclass(frozen=True, kw_only=True, eq=False)
class BaselineJob:
    """A request for a baseline's images with its models loaded and checked. Its images depend on their group."""

    classifier: Classifier
    student: Classifier | None
    classes: tuple[int, ...]
    images_per_class: int
    method: InversionSettings
    seed: int
    joint: bool = True

    @property
    def labels(self) -> dict[int, str]:
        return {number: self.classifier.labels[number] for number in self.classes}

    @property
    def device(self) -> torch.device:
        return self.classifier.device

    def groups(self) -> list[list[ImageKey]]:
        """The images of the job in groups that are optimised together; a function of the request alone."""
        return mixed_groups(self.classes, self.images_per_class, self.method.batch)

    def describe(self) -> dict[str, Any]:
        """Everything that the images depend on, as JSON values: what `run.json` keeps and continuing compares."""
        return {
            "classifier": self.classifier.describe(),
            "student": None if self.student is None else self.student.describe(),
            "classes": list(self.labels.values()),
            "images_per_class": self.images_per_class,
            "method": {"name": self.method.name, **asdict(self.method)},
            "seed": self.seed,
        }


def prepare_baseline(
    classifier: str | Path | nn.Module | Classifier,
    method: str | InversionSettings,
    classes: Sequence[str] | None = None,
    images_per_class: int = 8,
    seed: int = 0,
    student: str | Path | nn.Module | Classifier | None = None,
) -> BaselineJob:
    """Load what is named and check it all against each other. Takes what `generate` takes."""
    check_counts(images_per_class, seed)
    if not isinstance(classifier, Classifier):
        classifier = load_classifier(classifier)
    if student is not None and not isinstance(student, Classifier):
        seen = classifier.preprocess if isinstance(student, nn.Module) else None
        student = load_classifier(
            student, labels=classifier.labels, preprocess=seen, device=classifier.device
        )
    settings = settings_of(method, classifier)
    check_fit(settings, classifier, student)
    return BaselineJob(
        classifier=classifier,
        student=student,
        classes=class_numbers(classifier, classes),
        images_per_class=images_per_class,
        method=settings,
        seed=seed,
    )


def invert_group(
    job: BaselineJob, keys: Sequence[ImageKey], on_step: OnIteration | None = None
) -> list[Sample]:
    """Make the images of one group together."""
    labels = [key.class_index for key in keys]
    losses: list[Tensor] = []

    def watch(iteration: Iteration, of: Sequence[int]) -> None:
        losses.append(iteration.loss)
        if on_step is not None:
            on_step(iteration, of)

    generator = group_rng(job.seed, keys)
    images = synthesise(job.method, job.classifier, labels, generator, job.student, watch)
    logits, distances = judged(job.classifier, images)
    confidence = logits.softmax(1)
    members = " ".join(f"{key.class_index}.{key.index}" for key in keys)
    curve = tuple(torch.stack(losses).tolist())
    return [
        Sample(
            key=key,
            label=job.classifier.labels[key.class_index],
            seed=job.seed,
            prompt="",
            token="",
            image=images[row].float().cpu(),
            logits=logits[row].cpu(),
            l_bn=distances[row].item(),
            confidence=confidence[row, key.class_index].item(),
            group=members,
            curve=curve,
        )
        for row, key in enumerate(keys)
    ]
