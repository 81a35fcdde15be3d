"""The guidance gradient of a batch with the graph of a part of it in memory, exactly.

With statistics of the batch by two passes (`two_pass`), the class's cross-entropy being a mean over images, which adds
up over parts. With statistics of each image alone the parts have nothing to do with each other.
"""

from collections.abc import Callable
from functools import cache
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from engine.classifiers.classifier import Classifier
from engine.guidance.losses import alignment_target, domain_loss
from engine.guidance.steer import Scale, fitted, gradient
from engine.guidance.two_pass import two_pass
from engine.settings import Alignment

InParts = Callable[[Tensor, int, Scale], tuple[Tensor, Tensor]]
"""(latents z (N, 4, h, w), how many to hold a graph for, scale) -> loss and gradient, as `gradient` gives both with
`fitted(scale)`."""


def gradient_in_parts(
    classifier: Classifier,
    alignment: Alignment,
    decode: Callable[[Tensor], Tensor],
    classes: Tensor | None = None,
) -> InParts:
    """The gradient by z of `domain_loss` on the decoded latents: the loss is (1,), or by image (N,).

    decode: latents to images, no row depending on another. classes: (N,). With a part of N and above it is one ordinary
    pass.
    """
    target = alignment_target(classifier, alignment)

    @cache
    def loss_of(start: int, stop: int) -> Callable[[Tensor], Tensor]:
        return domain_loss(
            classifier, alignment, classes=None if classes is None else classes[start:stop]
        )

    def together(z: Tensor, start: int, scale: Scale) -> tuple[Tensor, Tensor]:
        loss = loss_of(start, start + len(z))
        return gradient(z, lambda rows: loss(decode(rows)), fitted(scale))

    def of(z: Tensor, part: int, scale: Scale = 1.0) -> tuple[Tensor, Tensor]:
        if part >= len(z):
            return together(z, 0, scale)
        if alignment.statistics == "image":
            starts = range(0, len(z), part)
            values, grads = zip(*(together(z[n : n + part], n, scale) for n in starts), strict=True)
            return torch.cat(values), torch.cat(grads)

        def of_classes(output: object, start: int) -> Tensor:
            logits = cast(Tensor, output)
            numbers = cast(Tensor, classes)[start : start + len(logits)]
            return (
                alignment.class_weight
                * cross_entropy(logits.float(), numbers, reduction="sum")
                / len(z)
            )

        return two_pass(
            z,
            lambda rows, start: classifier.logits(decode(rows)),
            classifier.module,
            target,
            part,
            fitted(scale),
            of_classes if classes is not None and alignment.class_weight else None,
        )

    return of
