"""Polishing: finished images move down the objective of guidance, in pixel space (`engine.settings.polish.Polish`)."""

from torch import Tensor

from engine.classifiers.base import Classifier
from engine.guidance.assembly import whole
from engine.guidance.gradient import loss_scale
from engine.guidance.move import AtOnce, Guidance, guided
from engine.guidance.objective import Objective
from engine.settings import Alignment


def polishing(
    classifier: Classifier, alignment: Alignment, classes: Tensor | None, at_once: AtOnce = whole
) -> Guidance:
    """What moves the pixels of one group of N images, which see no decoder; see `guidance_of`."""
    objective = Objective(classifier, alignment)
    return guided(objective, alignment, classes, loss_scale(classifier.dtype), at_once)


def polished(images: Tensor, guidance: Guidance) -> Tensor:
    """Images (N, 3, H, W) in [0, 1], in float32, after all moves. Raises GuidanceError, as `Guidance.check` does."""
    polish = guidance.alignment.polish
    images = images.float()
    for _ in range(polish.steps):
        images = guidance.moved(images, polish.scale).clamp(0, 1)
    guidance.check()
    return images
