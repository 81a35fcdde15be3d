"""L_BN: how far the moments of some images are from those that a network stored in training (paper, eq. 8)."""

from collections.abc import Callable, Sequence

import torch
from ddis_kernels import AlignmentTarget
from ddis_kernels import alignment_loss as fused_loss
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import cross_entropy

from engine.classifiers.classifier import Classifier
from engine.guidance.fused import fused_moments
from engine.guidance.moments import recording_moments
from engine.settings import Alignment
from engine.types import Moments

FIRST_LAYER_WEIGHT = 10.0


def layer_weights(stored: Sequence[Moments], layers: str) -> list[tuple[float, float]]:
    """Weights (of the mean's gap, of the variance's gap) of each layer, by the rule that `Alignment.layers` names.

    relative: the gaps are in units of ||sqrt(running_var)|| and ||running_var||, so that no layer drowns the others.
    """
    if layers == "relative":
        norms = [vector_norm(values) for s in stored for values in (s.var.sqrt(), s.var)]
        each = iter(
            torch.stack(norms).tolist()
        )  # all at once: each look at a value waits for the device
        return [
            (1 / deviation, 1 / variance) for deviation, variance in zip(each, each, strict=True)
        ]
    first = FIRST_LAYER_WEIGHT if layers == "first" else 1.0
    return [(first, first) if number == 0 else (1.0, 1.0) for number in range(len(stored))]


def alignment_loss(
    measured: Sequence[Moments],
    stored: Sequence[Moments],
    weights: Sequence[tuple[float, float]] | None = None,
    norm: str = "l2",
) -> Tensor:
    """L_BN = sum over layers of a |mean - running_mean|_2 + b |var - running_var|_2, with weights (a, b).

    measured: moments (C,) or, for single images, (N, C); the loss is a scalar or (N,), float32. With norm
    "l2_squared" each weighted norm is squared.
    """
    power = 2 if norm == "l2_squared" else 1
    terms = []
    for gap, kept, (a, b) in zip(
        measured, stored, weights or layer_weights(stored, "uniform"), strict=True
    ):
        terms.append((a * vector_norm(gap.mean - kept.mean, dim=-1)) ** power)
        terms.append((b * vector_norm(gap.var - kept.var, dim=-1)) ** power)
    return torch.stack(terms).sum(0)


def alignment_target(classifier: Classifier, alignment: Alignment) -> AlignmentTarget:
    """A classifier's stored moments, weighted as the settings say, in the form that the kernels take."""
    weights = layer_weights(classifier.stored, alignment.layers)
    return AlignmentTarget.of(classifier.stored, weights, alignment.norm)


def domain_loss(
    classifier: Classifier, alignment: Alignment, fused: bool = True, classes: Tensor | None = None
) -> Callable[..., Tensor]:
    """The loss of images (N, 3, H, W) in [0, 1] under a classifier: (N,) by image, or (1,) over the batch.

    L_BN and, where the images' `classes` (N,) are told, `alignment.class_weight` times their cross-entropy, from the
    same pass. fused: by `fused_moments`. Otherwise by hooks and `alignment_loss`, the reference that it equals to
    rounding. A call may name other `classes` behind the images.
    """
    per_image = alignment.statistics == "image"
    target = alignment_target(classifier, alignment)
    weights = layer_weights(classifier.stored, alignment.layers)

    def of_classes(logits: Tensor, classes: Tensor | None) -> Tensor | float:
        if classes is None or not alignment.class_weight:
            return 0.0
        losses = cross_entropy(logits.float(), classes, reduction="none" if per_image else "mean")
        return alignment.class_weight * losses.reshape(-1)

    def loss(images: Tensor, classes: Tensor | None = classes) -> Tensor:
        with fused_moments(classifier.module, per_image) as measured:
            logits = classifier.logits(images)
            return fused_loss(measured, target).reshape(-1) + of_classes(logits, classes)

    def reference(images: Tensor, classes: Tensor | None = classes) -> Tensor:
        with recording_moments(classifier.norm_layers, per_image) as measured:
            logits = classifier.logits(images)
            distance = alignment_loss(measured, classifier.stored, weights, alignment.norm)
            return distance.reshape(-1) + of_classes(logits, classes)

    return loss if fused else reference


def judged(classifier: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, K) of images and the published L_BN of each one alone, (N,), in one pass without gradient."""
    with torch.no_grad(), recording_moments(classifier.norm_layers, per_image=True) as measured:
        logits = classifier.logits(images)
        return logits, alignment_loss(measured, classifier.stored)
