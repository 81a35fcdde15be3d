"""Decoders of the TAESD family that diffusers' AutoencoderTiny cannot express: those of FLUX.2, SANA and Qwen-Image.

All read latents of unit variance, before their pipelines bring them to the scale of the full VAE. After the
architectures of github.com/madebyollin/taesd and of its sibling for video, taehv (both MIT); only the decoder is built.

    taef2     8 px a latent; the first blocks also add what a pointwise convolution finds in normalised channels
    taesana   32 px a latent, so five upsamplings, the first of them 256 and 128 channels wide
    taew2_1   8 px a latent; decodes video of Wan 2.1, whose VAE Qwen-Image has too. One latent makes four frames, of
              which the last is the image: layers that only the others need are left out
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, cast

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock
from torch import Tensor, nn

BLOCKS = 3
"""Residual blocks of each level but the last, which has one."""
GROUPS = 4
PACKED = 4
"""Neighbouring latents that FLUX.2 normalises together."""


class PooledBlock(AutoencoderTinyBlock):
    """A residual block that first adds a pointwise network with GroupNorm, by which all of an image is seen."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, "relu")
        self.pool = nn.Sequential(
            nn.Conv2d(width, GROUPS * width, 1, bias=False),
            nn.GroupNorm(GROUPS, GROUPS * width),
            nn.ReLU(),
            nn.Conv2d(GROUPS * width, width, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = super().forward(x + self.pool(x))
        return made


class FrameBlock(nn.Module):
    """A residual block that sees the previous frame: two frames of N videos, (2 N, C, h, w), the earlier ones first.

    Args:
        width: C.
        last: Whether only the later frame is returned, (N, C, h, w).
    """

    def __init__(self, width: int, last: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2 * width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        earlier, later = x.chunk(2)
        if self.last:
            x, before = later, earlier
        else:
            before = torch.cat([torch.zeros_like(earlier), earlier])
        made: Tensor = self.conv(torch.cat([x, before], 1)) + x
        return made.relu()


class Frames(nn.Module):
    """Frames (N, C, h, w) -> `number` frames of each, (number N, C, h, w), the earlier ones first."""

    def __init__(self, width: int, number: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, number * width, 1, bias=False)
        self.number = number

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self.conv(x).chunk(self.number, 1))


class TinyDecoder(nn.Module):
    """Latents (N, C, h, w) of unit variance -> images in [-1, 1], as an AutoencoderTiny decodes.

    Args:
        layers: What is run behind the clamp of latents; the first is a convolution.
        widths: Channels of each level; between two of them the side doubles.
        reads: Class of the VAE whose latents it decodes.
    """

    decoder: nn.Module

    def __init__(self, layers: Sequence[nn.Module], widths: Sequence[int], reads: str) -> None:
        super().__init__()
        channels = cast(nn.Conv2d, layers[0]).in_channels
        self.decoder = nn.Module()
        self.decoder.layers = nn.Sequential(*layers)
        # What pipelines read of a VAE to scale latents, so that they scale by nothing.
        self.bn = nn.Module()
        packed = PACKED * channels
        self.bn.register_buffer("running_mean", torch.zeros(packed), persistent=False)
        self.bn.register_buffer("running_var", torch.ones(packed), persistent=False)
        self.config = FrozenDict(
            reads=reads,
            latent_channels=channels,
            z_dim=channels,
            block_out_channels=tuple(widths),
            scaling_factor=1.0,
            shift_factor=0.0,
            batch_norm_eps=0.0,
            latents_mean=(0.0,) * channels,
            latents_std=(1.0,) * channels,
        )

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def decode(self, latents: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """Images in [-1, 1], as diffusers' VAEs return them without a dict."""
        images: Tensor = cast(Any, self.decoder.layers)(clamped(latents))
        return (images.mul(2).sub(1),)


def clamped(latents: Tensor) -> Tensor:
    """Latents (N, C, h, w), or videos of one latent (N, C, 1, h, w), softly limited to +-3: (N, C, h, w)."""
    still = latents[:, :, 0] if latents.dim() == 5 else latents
    return torch.tanh(still / 3) * 3


def image_decoder(
    reads: str, latent_channels: int, widths: Sequence[int], pooled: bool = False
) -> TinyDecoder:
    """pooled: whether the blocks of the first level are PooledBlocks."""
    layers: list[nn.Module] = [nn.Conv2d(latent_channels, widths[0], 3, padding=1), nn.ReLU()]
    for level, (width, following) in enumerate(zip(widths, [*widths[1:], None], strict=True)):
        for _ in range(BLOCKS if following else 1):
            plain = not (pooled and level == 0)
            layers.append(
                AutoencoderTinyBlock(width, width, "relu") if plain else PooledBlock(width)
            )
        if following:
            layers.append(nn.Upsample(scale_factor=2))
            layers.append(nn.Conv2d(width, following, 3, padding=1, bias=False))
        else:
            layers.append(nn.Conv2d(width, 3, 3, padding=1))
    return TinyDecoder(layers, widths, reads)


def video_decoder(
    reads: str, latent_channels: int, widths: tuple[int, int, int, int]
) -> TinyDecoder:
    """The part of a video decoder that makes an image: the second level ends in two frames, the third in one."""
    layers: list[nn.Module] = [nn.Conv2d(latent_channels, widths[0], 3, padding=1), nn.ReLU()]
    for level, (width, following) in enumerate(pairwise(widths)):
        for number in range(BLOCKS):
            layers.append(
                FrameBlock(width, last=number == BLOCKS - 1)
                if level == 2
                else AutoencoderTinyBlock(width, width, "relu")
            )
        layers.append(nn.Upsample(scale_factor=2))
        layers.append(Frames(width, 2 if level == 1 else 1))
        layers.append(nn.Conv2d(width, following, 3, padding=1, bias=False))
    return TinyDecoder([*layers, nn.ReLU(), nn.Conv2d(widths[-1], 3, 3, padding=1)], widths, reads)


VARIANTS: Mapping[str, Callable[[], TinyDecoder]] = {
    "taef2": partial(image_decoder, "AutoencoderKLFlux2", 32, (64, 64, 64, 64), pooled=True),
    "taesana": partial(image_decoder, "AutoencoderDC", 32, (256, 128, 64, 64, 64, 64)),
    "taew2_1": partial(video_decoder, "AutoencoderKLQwenImage", 16, (256, 128, 64, 64)),
}
"""The published ones, with random weights."""


def decoder_with(weights: Mapping[str, Tensor]) -> TinyDecoder | None:
    """The variant whose decoder these weights are, with them; None where they are of none.

    weights: as the hub's files have them (`decoder.layers.0.weight`), or as the author's own, in which a layer without
    weights goes first (`decoder.1.weight`, or `1.weight` in a file of the decoder alone).
    """
    named = _by_layers(weights)
    for variant in VARIANTS.values():
        with torch.device("meta"):
            wanted = variant().state_dict()
        kept = {
            name: _last_frame_weights(value, wanted[name]) if name in wanted else value
            for name, value in named.items()
        }
        if {name: value.shape for name, value in kept.items()} == {
            name: value.shape for name, value in wanted.items()
        }:
            found = variant()
            found.load_state_dict(kept)
            return found
    return None


def _last_frame_weights(value: Tensor, wanted: Tensor) -> Tensor:
    """The half of a video decoder's weight that the last frame needs; other weights are returned unchanged.

    Inputs of a convolution are the frame and then the previous one, which is left out; of its outputs the last frame is
    kept.
    """
    if value.shape[1:] == wanted.shape[1:] and len(value) == 2 * len(wanted):
        return value[len(wanted) :]
    if value.dim() == 4 and value.shape[1] == 2 * wanted.shape[1]:
        return value[:, : wanted.shape[1]]
    return value


def _by_layers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a decoder by the names that a TinyDecoder gives them; those of an encoder left out."""
    named = {}
    for name, value in weights.items():
        if name.startswith("encoder"):
            continue
        number, _, rest = name.removeprefix("decoder.").removeprefix("layers.").partition(".")
        if not number.isdecimal():
            continue
        place = int(number) if ".layers." in f".{name}" else int(number) - 1
        named[f"decoder.layers.{place}.{rest}"] = value
    return named
