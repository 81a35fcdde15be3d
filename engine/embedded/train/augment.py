"""Random changes of training images. Each draws on the device of `rng`, one change for each image of the batch."""

import math

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample

TURN, STRETCH = math.radians(15), 0.2
"""The most that a view is turned, and its aspect changed."""
LEAST_AREA = 0.35
"""The least share of an image that a view shows."""
LARGEST_HOLE = 0.5
"""Side of the largest erased square, relative to the image's."""


def warped(pixels: Tensor, side: int, rng: Generator) -> Tensor:
    """Views through a window of random size, place, aspect and turn, flipped or not; mirrored at the edges.

    pixels: (N, 3, H, W) uint8; gives (N, 3, side, side) in [0, 1].
    """
    number, place = len(pixels), pixels.device
    area, aspect, angle, flip, right, down = torch.rand(6, number, generator=rng, device=place)
    scale = (LEAST_AREA + (1 - LEAST_AREA) * area).sqrt()
    stretch = (STRETCH * (2 * aspect - 1)).exp()
    angle = TURN * (2 * angle - 1)
    sign = torch.where(flip < 0.5, -1.0, 1.0)
    wide, high = scale * stretch, scale / stretch
    rows = [
        torch.stack(
            [sign * wide * angle.cos(), -high * angle.sin(), (1 - scale) * (2 * right - 1)]
        ),
        torch.stack([sign * wide * angle.sin(), high * angle.cos(), (1 - scale) * (2 * down - 1)]),
    ]
    matrix = torch.stack(rows).permute(2, 0, 1)
    images = pixels.float() / 255
    with torch.autocast(pixels.device.type, enabled=False):  # positions need float32
        grid = affine_grid(matrix, [number, 3, side, side], align_corners=False)
        found = grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return found.clamp(0, 1)


def jittered(images: Tensor, rng: Generator, strength: float = 0.3, grey: float = 0.0) -> Tensor:
    """Random brightness, contrast and saturation: (N, 3, H, W) in [0, 1] -> the same; a share `grey` without colour."""
    draws = torch.rand(4, len(images), 1, 1, 1, generator=rng, device=images.device)
    brightness, contrast, saturation = 1 + strength * (2 * draws[:3] - 1)
    saturation = torch.where(draws[3] < grey, 0.0, saturation)
    mean = images.mean(1, keepdim=True)
    images = mean + saturation * (images - mean)
    centre = images.mean((1, 2, 3), keepdim=True)
    return (centre * brightness + contrast * (images - centre)).clamp(0, 1)


def erased(images: Tensor, rng: Generator, chance: float = 0.5) -> Tensor:
    """A random square of some images in the images' own mean colour: (N, 3, H, W) -> the same."""
    number, _, height, width = images.shape
    draws = torch.rand(4, number, 1, 1, generator=rng, device=images.device)
    half = torch.where(draws[0] < chance, LARGEST_HOLE / 2 * draws[1], 0.0)
    rows = (torch.arange(height, device=images.device)[:, None] + 0.5) / height
    columns = (torch.arange(width, device=images.device) + 0.5) / width
    hole = ((rows - draws[2]).abs() < half) & ((columns - draws[3]).abs() < half)
    return torch.where(hole[:, None], images.mean((2, 3), keepdim=True), images)


def mixed(images: Tensor, rng: Generator, chance: float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
    """Some images blended with another of the batch (mixup, arXiv 1710.09412).

    Gives the images, the index of each one's partner (N,), and each one's own share (N,), from 0.5 to 1.
    """
    number, place = len(images), images.device
    partner = torch.randperm(number, generator=rng, device=place)
    draws = torch.rand(2, number, generator=rng, device=place)
    share = torch.where(draws[0] < chance, 1 - draws[1].square() / 2, 1.0)
    weight = share[:, None, None, None]
    return weight * images + (1 - weight) * images[partner], partner, share
