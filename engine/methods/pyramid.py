"""The networks of NaturalInversion: a generator, a pyramid over the classifier's features, a scale for each channel."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from engine.classifiers.statistics import Tap

SMALLEST_PX = 8
"""The generator begins at the largest halving of the image that is no larger."""
SLOPE = 0.2


class ImageGenerator(nn.Module):
    """Latents (N, latent) -> pixels (N, 3, *size): a linear layer, then convolutions that double the size."""

    def __init__(self, size: tuple[int, int], latent: int, width: int) -> None:
        super().__init__()
        sizes = [size]
        while max(sizes[0]) > SMALLEST_PX:
            sizes.insert(0, (-(-sizes[0][0] // 2), -(-sizes[0][1] // 2)))
        self.sizes = sizes
        self.width = width
        self.start = nn.Linear(latent, width * sizes[0][0] * sizes[0][1])
        self.norm = nn.BatchNorm2d(width)
        self.blocks = nn.ModuleList(_block(width, width) for _ in sizes[1:])
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.norm(self.start(z).view(len(z), self.width, *self.sizes[0]))
        for size, block in zip(self.sizes[1:], self.blocks, strict=True):
            h = block(interpolate(h, size, mode="nearest"))
        return self.last(h)


class FeaturePyramid(nn.Module):
    """The generator's pixels, redrawn with what the classifier's features of them hold: Feature Transfer Pyramid.

    From the coarsest features to the finest, each block enlarges what is there, joins the features of that size and
    convolves; the last joins the pixels themselves. Pixels come out normalised over the batch.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.deepest = _block(channels[-1], width)
        self.blocks = nn.ModuleList(
            _block(width + count, width) for count in reversed(channels[:-1])
        )
        self.last = nn.Conv2d(width + 3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3, affine=False)

    def forward(self, pixels: Tensor, features: Sequence[Tensor]) -> Tensor:
        """pixels (N, 3, H, W) and features from fine to coarse -> pixels (N, 3, H, W)."""
        h = self.deepest(features[-1])
        for feature, block in zip(reversed(features[:-1]), self.blocks, strict=True):
            h = block(torch.cat([interpolate(h, feature.shape[2:], mode="nearest"), feature], 1))
        h = interpolate(h, pixels.shape[2:], mode="nearest")
        return self.norm(self.last(torch.cat([h, pixels], 1)))


def _block(width_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width_in, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(SLOPE),
    )


@contextmanager
def recording_features(taps: Sequence[Tap]) -> Iterator[dict[torch.Size, Tensor]]:
    """Yield a dict that a pass fills with the last input of a tapped layer at each size of map, by (h, w).

    They carry the graph of the pass. Fine to coarse, as a network meets them; emptied when the block ends.
    """
    found: dict[torch.Size, Tensor] = {}

    def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].dim() == 4:
            found[inputs[0].shape[2:]] = inputs[0]

    hooks = [
        layer.register_forward_pre_hook(record)
        for layer in dict.fromkeys(tap.layer for tap in taps)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
        found.clear()
