"""Which networks run with channels innermost in memory (channels_last): those that are faster so on this device.

Tensor cores read channels_last, so convolutions gain; torch's GroupNorm may lose as much. It is therefore timed: one
typical block of each network in both layouts, once a process. No value changes with the layout but for rounding.
"""

import time
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any

import torch
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from engine.classifiers.base import Classifier
from engine.networks.frozen import freeze, seeded
from engine.priors import Prior
from engine.priors.roles import TINY

FASTER = 0.97
"""A block's time over that in torch's usual layout, from which down channels_last is chosen."""
REPEATS = 5


def _bottleneck() -> nn.Module:
    """Of a ResNet-50."""
    wide, narrow = 256, 64
    return nn.Sequential(
        nn.Conv2d(wide, narrow, 1, bias=False),
        nn.BatchNorm2d(narrow),
        nn.ReLU(),
        nn.Conv2d(narrow, narrow, 3, padding=1, bias=False),
        nn.BatchNorm2d(narrow),
        nn.ReLU(),
        nn.Conv2d(narrow, wide, 1, bias=False),
        nn.BatchNorm2d(wide),
    )


class _Block(nn.Module):
    """A residual block of Stable Diffusion's UNet or VAE, without a time embedding."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = ResnetBlock2D(in_channels=channels, temb_channels=None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x, None)


BLOCKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "unet": (partial(_Block, 320), (2, 320, 64, 64)),
    "vae": (partial(_Block, 128), (1, 128, 256, 256)),
    "tiny": (partial(AutoencoderTinyBlock, 64, 64, "relu"), (1, 64, 256, 256)),
    "classifier": (_bottleneck, (8, 256, 56, 56)),
}
"""A block of each network that carries much of its time, and the shape of its input at 512 px."""
WITHOUT_GRADIENT = ("unet",)


def chosen_layouts(device: torch.device, prior: Prior) -> tuple[str, ...]:
    """The networks of BLOCKS that shall run channels_last; none on the CPU or on a GPU that is not in this machine."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return ()
    networks = {part.name for part in prior.components()} | {TINY, "classifier"}
    return tuple(
        name
        for name in BLOCKS
        if name in networks
        and block_ms(name, torch.channels_last, device, prior.dtype)
        <= FASTER * block_ms(name, torch.contiguous_format, device, prior.dtype)
    )


@cache
def block_ms(
    name: str, layout: torch.memory_format, device: torch.device, dtype: torch.dtype
) -> float:
    """The shortest time of a block of BLOCKS in a layout, with the gradient by its input where guidance takes one."""
    build, shape = BLOCKS[name]
    with seeded():
        block, x = build(), torch.randn(shape)
    block = freeze(block).to(device, dtype).to(memory_format=layout)  # type: ignore[call-overload]
    x = x.to(device, dtype, memory_format=layout).requires_grad_(name not in WITHOUT_GRADIENT)
    times = []
    with torch.set_grad_enabled(x.requires_grad):
        for _ in range(2 + REPEATS):  # the first ones set up
            torch.cuda.synchronize(device)
            began = time.perf_counter()
            y = block(x)
            if x.requires_grad:
                torch.autograd.grad(y, x, torch.ones_like(y))
            torch.cuda.synchronize(device)
            times.append(1000 * (time.perf_counter() - began))
    return min(times[2:])


def lay_out(channels_last: Iterable[str], prior: Prior, classifier: Classifier) -> None:
    """Put the weights of some networks (names of BLOCKS) into channels_last, in place and for good."""
    networks: dict[str, Any] = {part.name: part.module for part in prior.components()}
    networks |= {TINY: prior.tiny, "classifier": classifier.network}
    for name in channels_last:
        network = networks.get(name)
        if network is not None:
            network.to(memory_format=torch.channels_last)
