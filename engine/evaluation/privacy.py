"""Moments of images under differential privacy: the Gaussian mechanism on one clipped vector for each image.

    a = (m_i - b) / s        q = (v_i + (m_i - b)^2) / s^2 - 1        u_i = (a, q) of all D channels
    u_i <- u_i min(1, R / |u_i|)        R = clip sqrt(2 D)            released: U = (sum of u_i + N(0, sigma^2 I)) / n

m_i, v_i: mean and variance of image i alone, in each channel. b, s: those of public images, which say nothing of the
training images. Replacing one image moves the sum by at most 2 R. sigma = 2 R z, z being the least multiplier for which
the Gaussian mechanism is (epsilon, delta)-differentially private (Balle and Wang, arXiv 1805.06530, theorem 8):

    Phi(1 / (2 z) - epsilon z) - e^epsilon Phi(-1 / (2 z) - epsilon z) <= delta

So a file that is computed from U is (epsilon, delta)-differentially private with respect to replacing one image: n,
the network, its preprocessing, the choice of layers and the public images are taken to be public. k images of one
person have k epsilon. Noise is drawn from the operating system's generator; attacks on the rounding of floating-point
noise (Mironov 2012) are not defended against.
"""

import math
from collections.abc import Sequence
from random import SystemRandom

import torch

from engine.errors import ConfigError
from engine.types import Moments

MOST_NOISE = 0.25
"""Standard deviation of the noise in a released number, in its public unit, above which a file would mislead."""
LEAST_VARIANCE = 1e-3
"""Of the public one: what a released variance is at least, which noise may have made negative."""


class PrivateMoments:
    """Clipped sums of what images contribute, and their noisy release."""

    def __init__(
        self, public: Sequence[Moments], epsilon: float, delta: float, clip: float, images: int
    ) -> None:
        """Prepare for `images` images.

        Args:
            public: moments (C,) of each call, of public images.
            epsilon, delta: the guarantee.
            clip: the most that an image counts, in root mean square.
            images: all that will be added.

        Raises:
            ConfigError: for too few images: noise would drown what they have in common.
        """
        self.centre = torch.cat([one.mean for one in public]).double()
        var = torch.cat([one.var for one in public]).double()
        self.scale = var.clamp_min(1e-6 * float(var.mean()) + 1e-12).sqrt()
        self.sizes = [len(one.mean) for one in public]
        self.images = images
        width = 2 * len(self.scale)
        self.radius = clip * math.sqrt(width)
        if delta * images >= 1:
            raise ConfigError(
                f"delta is {delta:g} with {images} images, expected less than {1 / images:.2g}, one in their number: "
                "a file that gave one image away whole would keep such a promise. Lower it."
            )
        self.noise = 2 * self.radius * noise_multiplier(epsilon, delta)
        if self.noise / images > MOST_NOISE:
            raise ConfigError(
                f"epsilon is {epsilon:g} with {images} images and {width} numbers of {len(public)} layers, expected at "
                f"least {math.ceil(self.noise / MOST_NOISE)} images: noise would be {self.noise / images:.2g} of a "
                f"number's unit, and {MOST_NOISE} is the most that is of use. Measure more images, fewer `layers`, or "
                "raise `epsilon`."
            )
        self.total = torch.zeros(width, dtype=torch.float64)
        self.added = 0

    def add(self, moments: Sequence[Moments]) -> None:
        """Take images. moments: (N, C) of each call, of each image alone."""
        mean, var = (torch.cat(values, 1).cpu().double() for values in zip(*moments, strict=True))
        away = (mean - self.centre) / self.scale
        rows = torch.cat([away, var / self.scale.square() + away.square() - 1], 1)
        # An image on which the network overflows counts as much as others at most, too.
        rows = rows.nan_to_num(0.0, 1e100, -1e100)
        share = (self.radius / rows.norm(dim=1).clamp_min(1e-300)).clamp_max(1)
        self.total += (rows * share[:, None]).sum(0)
        self.added += len(rows)

    def release(self) -> list[Moments]:
        """Moments (C,) of each call, with noise. To be called once: two releases tell more than one."""
        if self.added != self.images:
            raise ConfigError(
                f"{self.added} images were measured, expected {self.images}, by which noise was chosen: the folder "
                "changed meanwhile. Measure it again."
            )
        random = SystemRandom()
        noise = [random.gauss(0.0, self.noise) for _ in range(len(self.total))]
        found = (self.total + torch.tensor(noise, dtype=torch.float64)) / self.images
        away, square = found.chunk(2)
        var = (1 + square - away.square()).clamp_min(LEAST_VARIANCE) * self.scale.square()
        mean = self.centre + self.scale * away
        return [
            Moments(m, v)
            for m, v in zip(mean.split(self.sizes), var.split(self.sizes), strict=True)
        ]


def noise_multiplier(epsilon: float, delta: float) -> float:
    """The least deviation of Gaussian noise, in units of the sensitivity, that is (epsilon, delta)-private."""
    low, high = 0.0, 1.0
    while _excess(high, epsilon) > delta:
        low, high = high, 2 * high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _excess(middle, epsilon) > delta else (low, middle)
    return high


def _excess(multiplier: float, epsilon: float) -> float:
    """The least delta of Gaussian noise of this multiplier."""
    half, shift = 1 / (2 * multiplier), epsilon * multiplier
    return _normal(half - shift) - math.exp(epsilon + _log_normal(-half - shift))


def _normal(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def _log_normal(x: float) -> float:
    """log Phi(x), also far below 0, where Phi itself is 0 in float64."""
    return float(torch.special.log_ndtr(torch.tensor(x, dtype=torch.float64)))
