"""What guidance descends: a scalar of some images, and its gradient by whatever the images are made from.

    L = domain_weight L_BN(moments of the images) + class_weight cross-entropy(logits, classes)

In place of L_BN stands the mean of an `ImageTerm`, where the classifier has one. Both terms come from one pass. The
moments are measured by fused BatchNorm layers or by hooks, and where only a part of the images may hold a
graph at once, by two passes that give the same gradient (`two_pass`).
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from engine.classifiers.base import Classifier, check_differentiable, statistics_of
from engine.classifiers.statistics import Absent, ImageTerm, Statistics, StatisticsWarning
from engine.errors import ConfigError
from engine.guidance.domain import Domain
from engine.guidance.gradient import LossScale, gradient
from engine.guidance.measuring import is_prepared
from engine.guidance.two_pass import part_by_part, two_pass
from engine.settings import Alignment

See = Callable[[Tensor], Tensor]
"""Inputs (N, ...) -> images (N, 3, H, W) in [0, 1], no image depending on another's inputs."""


class Objective:
    """Domain alignment under one classifier, by settings.

    Attributes:
        domain: the term L_BN; None where it has no weight, and for it no statistics are needed, or
            where the classifier has an `ImageTerm`.
        per_image: whether each image has a loss of its own; otherwise all images share one.
    """

    def __init__(
        self,
        classifier: Classifier,
        alignment: Alignment,
        see: See | None = None,
        fused: bool = True,
    ) -> None:
        """Bind settings to a classifier.

        Args:
            classifier: whose domain and classes count.
            alignment: how much they count, and how gaps are weighed.
            see: from inputs, such as latents, to images; by default the inputs are images.
            fused: whether BatchNorm layers may measure what they normalise; otherwise hooks do.

        Raises:
            ModelError: where L_BN has a weight and the classifier no statistics.
        """
        self.classifier = classifier
        self.see = see or _as_they_are
        self.fused = fused
        self.per_image = alignment.statistics == "image"
        self.class_weight = alignment.class_weight
        self.domain_weight = alignment.domain_weight
        known = needed_statistics(classifier, alignment)
        self.of_each = known if isinstance(known, ImageTerm) else None
        self.domain: Domain | None = None
        if isinstance(known, Statistics):
            settings = (alignment.layers, alignment.norm, self.per_image, fused)
            domain = Domain.of(classifier.network, known, *settings)
            self.domain = domain.times(alignment.domain_weight)

    @property
    def is_prepared(self) -> bool:
        """Whether a pass costs no other before it, as the first fused one of a network does."""
        domain = self.domain
        return domain is None or is_prepared(domain.network, domain.statistics, self.fused)

    def value(self, inputs: Tensor, classes: Tensor | None = None) -> Tensor:
        """L of inputs (N, ...) in one pass, with a graph: (1,) or, per image, (N,).

        classes: (N,), of the images; without them their term is left out.
        """
        images = self.see(inputs)
        if self.domain is None:
            return self._of_images(images, classes, "none" if self.per_image else "mean")
        with self.domain.measured() as moments:
            logits = self.classifier.logits(images)
            value = self.domain.loss(moments).reshape(-1)
            if classes is None or not self.class_weight:
                return value
            reduction = "none" if self.per_image else "mean"
            return value + self._of_classes(logits, classes, reduction)

    def value_and_grad(
        self,
        inputs: Tensor,
        classes: Tensor | None = None,
        at_once: int | None = None,
        scale: LossScale = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """L and its gradient by the inputs, with a graph of at most `at_once` images in memory.

        Args:
            inputs: (N, ...).
            classes: (N,), of the images; without them their term is left out.
            at_once: all images by default. Fewer give the same but for rounding.
            scale: what L is multiplied by on its way back, and the gradient divided by.

        Returns:
            (1,) or, per image, (N,), and the gradient of its sum, (N, ...). Neither holds a graph.
        """
        # Without a limit no size is looked at: a traced graph takes any.
        if at_once is None or at_once >= len(inputs):
            return gradient(inputs, lambda leaf: self.value(leaf, classes), scale)
        if self.per_image:
            parts = inputs.split(at_once)
            rows = [None] * len(parts) if classes is None else classes.split(at_once)
            found = [
                self.value_and_grad(*pair, scale=scale) for pair in zip(parts, rows, strict=True)
            ]
            values, grads = zip(*found, strict=True)
            return torch.cat(values), torch.cat(grads)
        return self._shared_in_parts(inputs, classes, at_once, scale)

    def _shared_in_parts(
        self, inputs: Tensor, classes: Tensor | None, size: int, scale: LossScale
    ) -> tuple[Tensor, Tensor]:
        """The one loss of all inputs and its gradient, with a graph of `size` images in memory."""
        if self.domain is None:

            def part(rows: Tensor, start: int) -> Tensor:
                own = None if classes is None else classes[start : start + len(rows)]
                return self._of_images(self.see(rows), own, "sum") / len(inputs)

            value, grad = part_by_part(inputs, part, size, scale)
            return value.reshape(1), grad

        def logits_of(rows: Tensor, _: int) -> Tensor:
            return self.classifier.logits(self.see(rows))

        def of_classes(output: object, start: int) -> Tensor:
            logits = cast(Tensor, output)
            rows = _given(classes)[start : start + len(logits)]
            losses = cross_entropy(logits.float(), rows, reduction="sum")
            return self.class_weight * losses / len(inputs)

        also = of_classes if classes is not None and self.class_weight else None
        return two_pass(inputs, logits_of, self.domain, size, scale, also)

    def _of_images(self, images: Tensor, classes: Tensor | None, reduction: str) -> Tensor:
        """The loss where no term is of all images together, in one pass: with reduction 'none' (N,), else (1,)."""
        with self._watching() as of_each:
            logits = self.classifier.logits(images)
            if of_each is None:
                return self._of_classes(logits, _given(classes), reduction)
            own = of_each(logits)
            value = {"none": own, "mean": own.mean(), "sum": own.sum()}[reduction]
            value = self.domain_weight * value.reshape(-1)
            if classes is None or not self.class_weight:
                return value
            return value + self._of_classes(logits, classes, reduction)

    @contextmanager
    def _watching(self) -> Iterator[Callable[[Tensor], Tensor] | None]:
        if self.of_each is None:
            yield None
            return
        with self.of_each.watching(self.classifier.network) as loss:
            yield loss

    def _of_classes(self, logits: Tensor, classes: Tensor, reduction: str) -> Tensor:
        """The weighted cross-entropy: with reduction 'none' (N,), else (1,)."""
        losses = cross_entropy(logits.float(), classes, reduction=reduction)
        return self.class_weight * losses.reshape(-1)


def needed_statistics(
    classifier: Classifier, alignment: Alignment
) -> Statistics | ImageTerm | None:
    """What guidance by these settings has to know of the classifier; None where it only reads its logits.

    Raises ModelError where the classifier does not have it.
    """
    if not alignment.domain_weight:
        return None
    if isinstance(classifier.statistics, ImageTerm):
        return classifier.statistics
    return statistics_of(
        classifier,
        "guidance by statistics",
        "set `alignment.domain_weight` to 0 to guide by the class alone, or choose method 'plain'",
    )


def check_statistics(classifier: Classifier, alignment: Alignment | None) -> None:
    """Refuse now what guidance will need and not find; warn where it needs nothing, of what will be missing.

    Raises ModelError for a classifier without statistics whose domain has a weight, and for one without a gradient.
    alignment: None without guidance.
    """
    if alignment is not None:
        check_differentiable(classifier)
        needed_statistics(classifier, alignment)
    if isinstance(classifier.statistics, Absent):
        guide = "" if alignment is None else "its classes alone guide the images, and "
        warnings.warn(
            f"classifier {classifier.name!r} {classifier.statistics.found}: nothing is known of its training images, "
            f"so {guide}no image gets an L_BN.",
            StatisticsWarning,
            stacklevel=2,
        )


def _given(classes: Tensor | None) -> Tensor:
    if classes is None:
        raise ConfigError(
            "guidance has no classes and no weight on the domain, expected one of them: pass the images' classes, or a "
            "domain_weight above 0."
        )
    return classes


def _as_they_are(images: Tensor) -> Tensor:
    return images
