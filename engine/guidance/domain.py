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
from engine.errors import ModelError, check_type
from engine.guidance.measuring import measuring
from engine.types import Moments

FIRST_LAYER_WEIGHT = 10.0
TINY = 1e-20
"""The norm of a layer's variances below which it counts as having none."""
LEAST_SHARE = 1e-6
"""Of a layer's mean variance: what a channel's own is taken for at least, so that a dead one does not rule the loss."""


def layer_weights(statistics: Statistics, layers: str) -> list[tuple[float, float]]:
    """Weights (of the mean's gap, of the variance's gap) of each tap, by the rule that `Alignment.layers` names.

    relative: the gaps are in units of ||sqrt(stored variance)|| and ||stored variance||, so that no layer drowns the
    others.
    """
    if layers == "relative":
        norms = [vector_norm(of) for s in statistics.stored for of in (s.var.sqrt(), s.var)]
        each = iter(torch.stack(norms).tolist())  # at once: each look waits for the device
        return [
            (_inverse(deviation), _inverse(variance))
            for deviation, variance in zip(each, each, strict=True)
        ]
    if layers == "channels":  # gaps come in units of each channel: see `channel_units`
        return [(len(s.mean) ** -0.5,) * 2 for s in statistics.stored]
    first = FIRST_LAYER_WEIGHT if layers == "first" else 1.0
    return [(first, first), *[(1.0, 1.0)] * (len(statistics.stored) - 1)]


def _inverse(norm: float) -> float:
    """The unit of a layer's gaps; 0 for a layer that gave the same value for all images, which has none."""
    return 1 / norm if norm > TINY else 0.0


def channel_units(statistics: Statistics) -> tuple[Tensor, ...]:
    """What to multiply the channels of each tap by, (C,), so that each has a stored variance of 1.

    A loss in these units does not change where a layer's channels are scaled, as by folding BatchNorm into a
    convolution.
    """
    least = [LEAST_SHARE * s.var.mean() + torch.finfo(s.var.dtype).tiny for s in statistics.stored]
    return tuple(
        torch.maximum(s.var, floor).rsqrt()
        for s, floor in zip(statistics.stored, least, strict=True)
    )


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
    return (moment_gaps(measured, stored, weights) ** power).sum(0)


def moment_gaps(
    measured: Sequence[Moments],
    stored: Sequence[Moments],
    weights: Sequence[tuple[float, float]] | None = None,
) -> Tensor:
    """The weighted norms that `moment_distance` adds up: of each layer's mean and variance, (2 L,) or (2 L, N)."""
    gaps = []
    for found, kept, (a, b) in zip(
        measured, stored, weights or [(1.0, 1.0)] * len(stored), strict=True
    ):
        gaps.append(a * vector_norm(found.mean - kept.mean, dim=-1))
        gaps.append(b * vector_norm(found.var - kept.var, dim=-1))
    return torch.stack(gaps)


@dataclass(frozen=True, eq=False)
class Domain:
    """L_BN as a term that guidance descends, of a network's latest pass.

    Attributes:
        network: what is measured. Frozen.
        statistics: of that network.
        target: stored moments and weights in the form that the kernels take.
        units: what the channels of each tap are multiplied by before they are compared, (C,); None for 1.
        per_image: whether each image is measured alone, instead of all together.
        fused: whether BatchNorm layers may measure what they normalise; otherwise hooks measure.
    """

    network: nn.Module
    statistics: Statistics
    target: AlignmentTarget
    per_image: bool = False
    fused: bool = True
    units: tuple[Tensor, ...] | None = None

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
        expected = "those of BatchNorm layers or of a statistics file"
        check_type("statistics", statistics, Statistics, expected)
        weights = layer_weights(statistics, layers)
        units = channel_units(statistics) if layers == "channels" else None
        target = AlignmentTarget.of(_scaled(statistics.stored, units), weights, norm)
        return cls(network, statistics, target, per_image, fused, units)

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

    def compared(self, moments: Sequence[Moments]) -> Sequence[Moments]:
        """Measured moments in the units of `target`."""
        return _scaled(moments, self.units)

    def loss(self, moments: Sequence[Moments]) -> Tensor:
        """L_BN of measured moments: a scalar or, of single images, (N,). Differentiable once."""
        return alignment_loss(self.compared(moments), self.target)

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


def _scaled(moments: Sequence[Moments], units: Sequence[Tensor] | None) -> Sequence[Moments]:
    """Moments of channels that are multiplied by `units`."""
    if units is None:
        return moments
    return [Moments(m.mean * by, m.var * by.square()) for m, by in zip(moments, units, strict=True)]


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
