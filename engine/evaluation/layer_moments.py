"""Moments of a classifier's layers over images that are never held whole."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from engine.classifiers import Classifier
from engine.classifiers.statistics import Examined, Tap
from engine.classifiers.statistics.layers import Call, calls_by_name, calls_by_rule
from engine.guidance.moments import merged, recording_moments
from engine.types import Moments

NOISE_IMAGES = 64
"""Images of noise, of each coarseness as many."""


def chosen_calls(classifier: Classifier, layers: Sequence[str] | None) -> list[Call]:
    """The calls that are measured, in call order: of named layers, or those that the rule chooses."""
    blank = torch.zeros(1, 3, *classifier.preprocess.crop, device=classifier.device)
    examined = Examined(classifier.network, lambda: classifier.logits(blank), classifier.preprocess)
    return calls_by_rule(examined) if layers is None else calls_by_name(examined, layers)


def taps_of(classifier: Classifier, calls: Sequence[Call]) -> list[Tap]:
    """The taps of calls, in the classifier's own network."""
    return [call.tap(classifier.network) for call in calls]


@torch.no_grad()
def merged_moments(
    classifier: Classifier,
    calls: Sequence[Call],
    batches: Iterable[Tensor],
    look: Callable[[int, Tensor], None] = lambda *_: None,
) -> list[Moments]:
    """Moments (C,) of each call over all images, float64, on the CPU.

    Args:
        classifier: what is measured.
        calls: of its layers.
        batches: images (N, 3, H, W) in [0, 1].
        look: called after each batch, with the number of images before it and the batch.
    """
    taps = taps_of(classifier, calls)
    moments: list[Moments] = []
    seen = 0
    for part in batches:
        with recording_moments(taps) as taken:
            classifier.logits(part.to(classifier.device))
            now = [Moments(one.mean.double().cpu(), one.var.double().cpu()) for one in taken]
        # Images are counted, not values: a layer reads equally many values of each image.
        moments = merged(moments, now, seen, len(part))
        look(seen, part)
        seen += len(part)
    return moments


def noise_images(size: tuple[int, int]) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] of coarse and fine noise, always the same."""
    sides = [2**power for power in range(1, int(math.log2(min(size))) + 1)] or [1]
    rng = torch.Generator().manual_seed(0)
    coarse = [
        torch.rand(NOISE_IMAGES // len(sides), 3, side, side, generator=rng) for side in sides
    ]
    return torch.cat([interpolate(one, size, mode="bicubic") for one in coarse]).clamp(0, 1)
