"""The domain term, L_BN: how far the moments of some images are from those that a classifier knows (paper, eq. 8).

What is known belongs to the classifier (`Statistics`); how much each layer and each gap counts is decided here.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from ddis_kernels import AlignmentTarget, alignment_loss
from torch import Tensor, nn
from torch.linalg import vector_norm

from engine.classifiers.base import Classifier
from engine.classifiers.statistics import Statistics
from engine.errors import ModelError
from engine.guidance.measuring import measuring
from engine.types import Moments

FIRST_LAYER_WEIGHT = 10.0


def layer_weights(statistics: Statistics, layers: str) -> list[tuple[float, float]]:
    """Weights (of the mean's gap, of the variance's gap) of each tap, by the rule that `Alignment.layers` names.

    relative: the gaps are in units of ||sqrt(stored variance)|| and ||stored variance||, so that no layer drowns the
    others.
    """
    if layers == "relative":
        norms = [vector_norm(of) for s in statistics.stored for of in (s.var.sqrt(), s.var)]
        each = iter(torch.stack(norms).tolist())  # at once: each look waits for the device
        return [
            (1 / deviation, 1 / variance) for deviation, variance in zip(each, each, strict=True)
        ]
    first = FIRST_LAYER_WEIGHT if layers == "first" else 1.0
    return [(first, first), *[(1.0, 1.0)] * (len(statistics.stored) - 1)]


def moment_distance(
    measured: Sequence[Moments],
    stored: Sequence[Moments],
    weights: Sequence[tuple[float, float]] | None = None,
    norm: str = "l2",
) -> Tensor:
    """L_BN in plain torch: sum over layers of a |mean - stored mean|_2 + b |var - stored var|_2.

    The published measure of images, and the reference of `Domain.loss`.

    Args:
        measured: moments (C,) or, of single images, (N, C).
        stored: moments (C,).
        weights: (a, b) of each layer; all 1 by default.
        norm: "l2", or "l2_squared" to square each weighted norm.

    Returns:
        A scalar, or (N,) for single images.
    """
    power = 2 if norm == "l2_squared" else 1
    terms = []
    for found, kept, (a, b) in zip(
        measured, stored, weights or [(1.0, 1.0)] * len(stored), strict=True
    ):
        terms.append((a * vector_norm(found.mean - kept.mean, dim=-1)) ** power)
        terms.append((b * vector_norm(found.var - kept.var, dim=-1)) ** power)
    return torch.stack(terms).sum(0)


@dataclass(frozen=True, eq=False)
class Domain:
    """L_BN as a term that guidance descends, of a network's latest pass.

    Attributes:
        network: what is measured. Frozen.
        statistics: of that network.
        target: stored moments and weights in the form that the kernels take.
        per_image: whether each image is measured alone, instead of all together.
        fused: whether BatchNorm layers may measure what they normalise; otherwise hooks measure.
    """

    network: nn.Module
    statistics: Statistics
    target: AlignmentTarget
    per_image: bool = False
    fused: bool = True

    @classmethod
    def of(
        cls,
        network: nn.Module,
        statistics: Statistics,
        layers: str = "uniform",
        norm: str = "l2",
        per_image: bool = False,
        fused: bool = True,
    ) -> "Domain":
        """The term with weights by the rule `layers` and gaps by `norm`, as `Alignment` has them."""
        weights = layer_weights(statistics, layers)
        target = AlignmentTarget.of(statistics.stored, weights, norm)
        return cls(network, statistics, target, per_image, fused)

    def times(self, factor: float) -> "Domain":
        """A term whose loss is `factor` times this one's."""
        if factor == 1:
            return self
        by = factor**0.5 if self.target.squared else factor
        return replace(self, target=replace(self.target, weights=self.target.weights * by))

    @contextmanager
    def measured(self) -> Iterator[list[Moments]]:
        """Yield a list that holds the moments of the network's latest pass in the block, at each tap."""
        with measuring(self.network, self.statistics, self.per_image, self.fused) as moments:
            yield moments

    def loss(self, moments: Sequence[Moments]) -> Tensor:
        """L_BN of measured moments: a scalar or, of single images, (N,). Differentiable once."""
        return alignment_loss(moments, self.target)

    @contextmanager
    def watched(self) -> Iterator[Callable[[], Tensor]]:
        """Yield a function that gives L_BN of the network's latest pass in the block, with its graph.

        with domain.watched() as l_bn:
            logits = classifier.logits(images)
            (gradient,) = torch.autograd.grad(l_bn(), images)
        """
        with self.measured() as moments:

            def latest() -> Tensor:
                if not moments:
                    raise ModelError(
                        "there is no pass to take the loss of, expected one inside the block: run the network, whole, "
                        "and call the loss before the block ends."
                    )
                return self.loss(moments)

            yield latest


def judged(classifier: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, K) of images and the published L_BN of each one alone, (N,), in one pass without gradient.

    L_BN is NaN for a classifier without statistics.
    """
    known = classifier.statistics
    if not isinstance(known, Statistics):
        with torch.no_grad():
            logits = classifier.logits(images)
        return logits, logits.new_full((len(logits),), torch.nan)
    with (
        torch.no_grad(),
        measuring(classifier.network, known, per_image=True, fused=False) as measured,
    ):
        logits = classifier.logits(images)
        return logits, moment_distance(measured, known.stored)
