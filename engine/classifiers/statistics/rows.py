"""Which rows of what a layer reads are one image's: BatchNorm over tokens reads (N T, C), not (N, C, ...).

Moments of all images together need no such knowledge; those of each image alone do.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from engine.classifiers.statistics.base import Examined, Tap

Record = Callable[[Callable[[], object]], Sequence[Tensor]]
"""Runs a function, and gives the tensors that the layers in question see, in call order."""


class Rows(NamedTuple):
    """How the first axis is divided among images: see `Tap`."""

    rows: int = 1
    interleaved: bool = False


def by_image(x: Tensor, tap: Tap) -> Tensor:
    """What a tap sees as (N, C, ...), one row for each image."""
    x = x if tap.axis == 1 else x.movedim(tap.axis, 1)
    if tap.rows == 1:
        return x
    if tap.interleaved:
        return x.unflatten(0, (tap.rows, -1)).movedim(0, 2)
    return x.unflatten(0, (-1, tap.rows)).movedim(1, 2)


def rows_of(examined: Examined, record: Record, single: Sequence[Tensor]) -> list[Rows] | None:
    """How the first axis of each tensor is divided; None where nothing says.

    single: what `record` gives for the run of `examined`. Where a tensor has more rows than one, two pairs of images
    that differ in the second one tell which rows are whose.
    """
    if all(len(x) == 1 for x in single):
        return [Rows()] * len(single)
    pixels = _noise(examined, single[0])
    network = examined.network
    single, first, second = (
        [x.detach().clone() for x in record(partial(network, pixels[some]))]
        for some in ([0], [0, 1], [0, 2])
    )
    if not len(first) == len(second) == len(single):
        return None
    found = [_divided(*three) for three in zip(single, first, second, strict=True)]
    return None if None in found else [one for one in found if one is not None]


def _noise(examined: Examined, like: Tensor) -> Tensor:
    """Three preprocessed images, always the same."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, *examined.preprocess.crop, generator=generator).to(like.device)
    return examined.preprocess(images).to(like.dtype)


def _divided(single: Tensor, first: Tensor, second: Tensor) -> Rows | None:
    rows = len(single)
    if rows == 1:
        return Rows() if len(first) == 2 else None
    if len(first) != 2 * rows or first.shape != second.shape:
        return None
    changed = (first != second).flatten(1).any(1)
    together, apart = changed.view(2, rows), changed.view(rows, 2)
    if not together[0].any() and together[1].any():
        return Rows(rows, False)
    if not apart[:, 0].any() and apart[:, 1].any():
        return Rows(rows, True)
    return None
