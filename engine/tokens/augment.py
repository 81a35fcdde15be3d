"""Random views of an image, so that a token cannot live on pixels that only this one view shows."""

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

ZOOM = (0.8, 1.1)
"""Range of the side of what is shown, in sides of the image; past its edge, its own border goes on."""
SHIFT = 0.1
"""The farthest that the view's centre may lie from the image's along an axis, in sides of the image."""


def random_views(count: int, rng: torch.Generator) -> Tensor:
    """What is shown of each of N images, (N, 2, 3): zoomed, shifted and, at even chance, flipped left to right.

    rng: on the CPU.
    """
    zoom, across, down, flip = torch.rand(4, count, generator=rng)
    side = ZOOM[0] + (ZOOM[1] - ZOOM[0]) * zoom
    sign = torch.where(flip < 0.5, -1.0, 1.0)
    views = torch.zeros(count, 2, 3)
    views[:, 0, 0], views[:, 1, 1] = sign * side, side
    views[:, :, 2] = 2 * SHIFT * (2 * torch.stack([across, down], 1) - 1)
    return views


def shown(images: Tensor, views: Tensor) -> Tensor:
    """images (N, 3, H, W) in [0, 1] -> the same shape, as `random_views` says. Differentiable."""
    grid = affine_grid(
        views.to(images.device, images.dtype), list(images.shape), align_corners=False
    )
    return grid_sample(images, grid, padding_mode="border", align_corners=False)


def augmented(images: Tensor, rng: torch.Generator) -> Tensor:
    """images (N, 3, H, W) in [0, 1] -> the same shape, each in a random view."""
    return shown(images, random_views(len(images), rng))
