"""Guidance put together from its settings: what it descends, through which decoder, and how it moves latents."""

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from engine.classifiers.base import Classifier
from engine.guidance.decoder import GuidanceDecoder
from engine.guidance.gradient import Scale, fitted, loss_scale
from engine.guidance.move import AtOnce, Descend, Guidance, guided
from engine.guidance.objective import Objective
from engine.settings import Alignment

T = TypeVar("T")
Descent = Callable[[Tensor, Scale, Tensor], tuple[Tensor, Tensor]]
"""(latents (N, ...), scale, classes (N,)) -> an objective's values (G,) and its gradient by the latents."""


def whole(images: int, work: Callable[[int], T]) -> T:
    """Work on all images at once."""
    return work(images)


def guidance_of(
    classifier: Classifier,
    alignment: Alignment,
    decoder: GuidanceDecoder,
    classes: Tensor | None,
    at_once: AtOnce = whole,
    descend: Descend | None = None,
) -> Guidance:
    """The guidance of one group of N images.

    Args:
        classifier: Whose domain and classes count.
        alignment: The settings.
        decoder: What latents are seen through.
        classes: Of the images, (N,); None leaves their term out.
        at_once: Says how many images there is room for; see `AtOnce`.
        descend: What gives the objective and its gradient while there is room for all images, in
            place of autograd.
    """
    objective = Objective(classifier, alignment, decoder)
    scale = loss_scale(decoder.vae.dtype, classifier.dtype)
    return guided(objective, alignment, classes, scale, at_once, descend)


def descent_of(classifier: Classifier, alignment: Alignment, decoder: GuidanceDecoder) -> Descent:
    """What guidance descends for whole groups, as a function of tensors alone."""
    objective = Objective(classifier, alignment, decoder)

    def descend(z: Tensor, scale: Scale, classes: Tensor) -> tuple[Tensor, Tensor]:
        return objective.value_and_grad(z, classes, scale=fitted(scale))

    return descend


def is_prepared(classifier: Classifier, alignment: Alignment) -> bool:
    """Whether guidance costs no pass before the first, in which layers are paired with activations."""
    return Objective(classifier, alignment).is_prepared
