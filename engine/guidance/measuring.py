"""Ways of measuring the moments of what a network's layers read: fused with BatchNorm, or by hooks."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from engine.classifiers.statistics import Statistics
from engine.classifiers.statistics.batch_norm import is_batch_norm
from engine.guidance.fused import fused_moments, is_watched
from engine.guidance.moments import recording_moments
from engine.types import Moments


@contextmanager
def measuring(
    network: nn.Module, statistics: Statistics, per_image: bool = False, fused: bool = True
) -> Iterator[list[Moments]]:
    """Yield a list that holds the moments of the network's latest pass, at each tap of its statistics.

    They carry the graph of the pass, so use them before the block ends: it empties the list and restores the network.

    Args:
        network: frozen, run whole, by one thread.
        statistics: its taps say what is measured.
        per_image: moments (N, C) of each image alone, instead of (C,) of all together.
        fused: whether BatchNorm layers may measure what they normalise, which adds no pass over any activation.
            Hooks give the same but for rounding, and leave the network's own operators in place.
    """
    if fused and can_fuse(statistics, per_image):
        with fused_moments(network, per_image, layers_of(statistics)) as moments:
            yield moments
        return
    with recording_moments(statistics.taps, per_image) as moments:
        hook = network.register_forward_pre_hook(lambda *_: moments.clear(), prepend=True)
        try:
            yield moments
        finally:
            hook.remove()


def can_fuse(statistics: Statistics, per_image: bool = False) -> bool:
    """Whether every tap is a BatchNorm layer's own input, so that the layer can measure it.

    per_image: whether it has to tell images apart, which it can where each is a row.
    """
    return all(
        is_batch_norm(tap.layer)
        and tap.axis == 1
        and tap.of == "input"
        and not (per_image and tap.rows > 1)
        for tap in statistics.taps
    )


def is_prepared(network: nn.Module, statistics: Statistics, fused: bool = True) -> bool:
    """Whether a pass costs no other before it, as the first fused one of a network does."""
    return not (fused and can_fuse(statistics)) or is_watched(network, layers_of(statistics))


def layers_of(statistics: Statistics) -> list[nn.Module]:
    """The tapped layers, each once."""
    return list(dict.fromkeys(tap.layer for tap in statistics.taps))
