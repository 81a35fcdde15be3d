"""Noise of images: one generator for each, drawn on the CPU, so that neighbours and devices don't matter."""

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from engine.types import ImageKey, image_rng


class ImageNoise:
    """The noise of some images, draw after draw: first where sampling starts, then what a stochastic step adds.

    Row i of every draw depends on `seed`, keys[i] and the number of the draw alone.
    """

    def __init__(
        self,
        seed: int,
        keys: Sequence[ImageKey],
        shape: Sequence[int],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.generators = [image_rng(seed, key) for key in keys]
        self.shape = tuple(shape)
        self.device = device
        self.dtype = dtype

    def of(self, rows: Sequence[int]) -> "ImageNoise":
        """The noise of some of the images, from where their draws stand now."""
        some = copy(self)
        some.generators = [self.generators[row] for row in rows]
        return some

    def fork(self, rows: Sequence[int]) -> "ImageNoise":
        """As `of`, but draws of the twin leave these where they stand: what is run again draws the same."""
        some = self.of(rows)
        some.generators = [generator.clone_state() for generator in some.generators]
        return some

    def draw(self) -> Tensor:
        """Unit normal latents (N, ...)."""
        rows = [torch.randn(self.shape, generator=generator) for generator in self.generators]
        return torch.stack(rows).to(self.device, self.dtype)
