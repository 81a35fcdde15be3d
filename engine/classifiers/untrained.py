"""Networks with random weights, of the published widths or of narrower ones."""

import torch
import torch.nn.functional as F
from torch import nn

from engine.classifiers.architectures import ARCHITECTURES
from engine.classifiers.preprocess import Preprocess
from engine.classifiers.statistics.batch_norm import is_batch_norm

NOISE_SIDES = (4, 8, 16, 32, 64)
"""Sides of the noise, in pixels, that `measure_statistics` enlarges to images."""
DIVISORS = (2, 4, 8)
"""What a name can divide the widths of an architecture by: 'resnet18/4' has a quarter of each layer's channels."""


def untrained(name: str, classes: int) -> nn.Module:
    """A network with random weights, by a name that `is_architecture` knows."""
    base, _, divisor = name.partition("/")
    return ARCHITECTURES[base].new(classes, int(divisor or 1))


def is_architecture(name: str) -> bool:
    """Whether a name is of one of `ARCHITECTURES`, with its published widths or divided by one of DIVISORS."""
    base, slash, divisor = name.partition("/")
    return base in ARCHITECTURES and (not slash or divisor in map(str, DIVISORS))


def base_architecture(name: str) -> str:
    """What a file of weights calls its architecture, whose widths it has itself: 'resnet18' of 'resnet18/4'."""
    return name.partition("/")[0]


@torch.no_grad()
def measure_statistics(network: nn.Module, preprocess: Preprocess) -> nn.Module:
    """Give an untrained network, in place, the BatchNorm statistics of images of the size that it reads.

    The images are coarse and fine noise. Statistics of another size, or a new network's zeros and ones, would let its
    activations and L_BN grow from layer to layer until float16 overflows. Returns the network in evaluation mode.
    """
    height, width = preprocess.crop
    sides = [side for side in NOISE_SIDES if side < min(height, width)]
    noise = [torch.rand(1, 3, side, side) for side in sides]
    images = [F.interpolate(coarse, (height, width), mode="bicubic") for coarse in noise]
    layers = [layer for layer in network.modules() if is_batch_norm(layer)]
    before = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 1.0  # type: ignore[assignment]  # one batch makes the statistics
    network.train()(preprocess.normalised(torch.cat([*images, torch.rand(1, 3, height, width)])))
    for layer, momentum in zip(layers, before, strict=True):
        layer.momentum = momentum
    return network.eval()
