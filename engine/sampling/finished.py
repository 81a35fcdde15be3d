"""The end of a run: from finished latents to images, and what a classifier says of them."""

from torch import Tensor

from engine.classifiers.base import Classifier
from engine.guidance.domain import judged
from engine.priors import Prior


def finished(prior: Prior, classifier: Classifier, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images (N, 3, H, W) in [0, 1] of latents z (N, ...), and their logits and L_BN as `judged` gives them."""
    images = prior.decode(z)
    return images, *judged(classifier, images)
