"""Starting noise: one generator for each image, drawn on the CPU, so that neighbours and devices don't matter."""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.types import ImageKey, image_rng


def starting_noise(seed: int, keys: Sequence[ImageKey], shape: tuple[int, int, int]) -> Tensor:
    """Unit normal latents (len(keys), *shape), float32 on the CPU; row i depends on `seed` and keys[i] alone."""
    return torch.stack([torch.randn(shape, generator=image_rng(seed, key)) for key in keys])
