"""Images that are made from a classifier alone, without a prior: what the inversions share.

A method is a function that makes a group's images and one that checks what it is given; `InversionMethod` makes of them
what the registry names. The images of a group depend on each other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Generator, Tensor

from engine.classifiers import Classifier
from engine.classifiers.base import class_numbers
from engine.errors import ConfigError
from engine.events import SILENT, Events, Stepped
from engine.guidance.domain import judged
from engine.methods.base import MixedGroups, members
from engine.methods.descent import Iteration, OnIteration
from engine.methods.models import Models
from engine.request import Execution, Request
from engine.settings.inversion import ITERATIONS, InversionSettings
from engine.types import ImageKey, Sample, group_rng

CANARY_ITERATIONS = 2


class Synthesise(Protocol):
    """Makes a group's images (N, 3, H, W) in [0, 1], of classes `labels` (N,)."""

    def __call__(
        self,
        classifier: Classifier,
        labels: Sequence[int],
        generator: Generator,
        settings: Any,
        student: Classifier | None = None,
        on_iteration: OnIteration | None = None,
    ) -> Tensor: ...


Check = Callable[[Classifier, Any, Classifier | None], None]
"""(classifier, settings, student): raises ConfigError where the method cannot work on them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Inversion:
    """A request for inverted images with its models loaded and checked; see `engine.methods.base.Prepared`."""

    plan: ClassVar[None] = None
    micro_batches: ClassVar[None] = None
    joint: ClassVar[bool] = True

    request: Request
    settings: InversionSettings
    synthesise: Synthesise
    classifier: Classifier
    student: Classifier | None
    classes: tuple[int, ...]

    @property
    def labels(self) -> dict[int, str]:
        return {number: self.classifier.labels[number] for number in self.classes}

    @property
    def device(self) -> torch.device:
        return self.classifier.device

    def groups(self) -> MixedGroups:
        """The images of the request in groups that are optimised together."""
        return MixedGroups(self.classes, self.request.images_per_class, self.settings.batch)

    def canary(self) -> "Inversion":
        """The same in at most CANARY_ITERATIONS iterations of each stage."""
        short = {
            name: min(getattr(self.settings, name), CANARY_ITERATIONS)
            for name in ITERATIONS
            if hasattr(self.settings, name)
        }
        return replace(self, settings=replace(self.settings, **short))

    def identities(self) -> dict[str, Any]:
        """Name and fingerprint of the classifier, and of the student if there is one, as JSON values."""
        return {
            "classifier": self.classifier.describe(),
            "student": None if self.student is None else self.student.describe(),
        }

    def make(self, keys: Sequence[ImageKey], events: Events = SILENT) -> list[Sample]:
        """Make the images of one group together."""
        seed, settings, classifier = self.request.seed, self.settings, self.classifier
        labels = [key.class_index for key in keys]
        losses: list[Tensor] = []

        def watch(iteration: Iteration, of: Sequence[int]) -> None:
            losses.append(iteration.loss)
            loss = iteration.loss.item() if events.losses else None
            events.emit(Stepped("images", len(of), iteration.index, iteration.total, loss))

        generator = group_rng(seed, keys)
        images = self.synthesise(classifier, labels, generator, settings, self.student, watch)
        logits, distances = judged(classifier, images)
        confidence = logits.softmax(1)
        group = members(keys)
        curve = tuple(torch.stack(losses).tolist())
        return [
            Sample(
                key=key,
                label=classifier.labels[key.class_index],
                seed=seed,
                prompt="",
                token="",
                image=images[row].float().cpu(),
                logits=logits[row].cpu(),
                l_bn=distances[row].item(),
                confidence=confidence[row, key.class_index].item(),
                group=group,
                curve=curve,
            )
            for row, key in enumerate(keys)
        ]


@dataclass(frozen=True)
class InversionMethod:
    """An inversion as the registry names it: called with a request, it loads the models and checks them."""

    synthesise: Synthesise
    check: Check | None = None

    def __call__(self, request: Request, models: Models, execution: Execution) -> Inversion:
        settings = request.method
        assert isinstance(settings, InversionSettings)
        classifier, student = models.classifier, models.student
        check_dtype(settings, classifier, student)
        if self.check is not None:
            self.check(classifier, settings, student)
        return Inversion(
            request=request,
            settings=settings,
            synthesise=self.synthesise,
            classifier=classifier,
            student=student,
            classes=class_numbers(classifier, request.classes),
        )


def check_dtype(
    settings: InversionSettings, classifier: Classifier, student: Classifier | None
) -> None:
    """Raise ConfigError for a network in float16."""
    if torch.float16 in {classifier.dtype, *([student.dtype] if student else [])}:
        raise ConfigError(
            f"method {settings.name!r} has a network in float16, expected float32 or bfloat16: gradients by pixels "
            "leave float16's range. Load it in another dtype."
        )
