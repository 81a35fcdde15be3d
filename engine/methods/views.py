"""Views in which the inversions see an image, another in each iteration. Pure: randomness comes from the generator."""

import torch
from torch import Generator, Tensor


def jittered(x: Tensor, most: int, rng: Generator) -> Tensor:
    """x (N, 3, H, W) moved by up to `most` pixels each way, the same for all images; what leaves comes in opposite."""
    down, right = torch.randint(-most, most + 1, (2,), generator=rng).tolist()
    return x.roll((down, right), (2, 3))


def flipped(x: Tensor, rng: Generator) -> Tensor:
    """x (N, 3, H, W) mirrored left to right, all or none, with probability 1/2."""
    return x.flip(3) if torch.rand((), generator=rng) < 0.5 else x


def color_shifted(x: Tensor, copies: int, shift: float, spread: float, rng: Generator) -> Tensor:
    """ColorShift: `copies` of x (N, 3, H, W), one behind the other, each sigma x - mu: (copies N, 3, H, W).

    mu ~ U(-shift, shift) and log sigma ~ U(-spread, spread), drawn for each copy, image and channel.
    """
    count = copies * len(x)
    mu = shift * (2 * torch.rand(count, 3, 1, 1, generator=rng) - 1)
    log_sigma = spread * (2 * torch.rand(count, 3, 1, 1, generator=rng) - 1)
    return log_sigma.exp().to(x) * x.repeat(copies, 1, 1, 1) - mu.to(x)
