"""Decoders of the TAESD family that diffusers' AutoencoderTiny cannot express: those of FLUX.2 and SANA.

Both read latents of unit variance, before their pipelines bring them to the scale of the full VAE. After the
architectures of github.com/madebyollin/taesd (MIT); only the decoder is built.

    taef2     8 px a latent; the first blocks also add what a pointwise convolution finds in normalised channels
    taesana   32 px a latent, so five upsamplings, the first of them 256 and 128 channels wide
"""

from collections.abc import Mapping, Sequence
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


class TinyDecoder(nn.Module):
    """Latents (N, C, h, w) of unit variance -> images in [-1, 1], as an AutoencoderTiny decodes.

    Args:
        latent_channels: C.
        widths: Channels of each level; between two of them the side doubles.
        pooled: Whether the blocks of the first level are PooledBlocks.
    """

    decoder: nn.Module

    def __init__(self, latent_channels: int, widths: Sequence[int], pooled: bool = False) -> None:
        super().__init__()
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
        self.decoder = nn.Module()
        self.decoder.layers = nn.Sequential(*layers)
        # What pipelines read of a VAE to scale latents, so that they scale by nothing.
        self.bn = nn.Module()
        packed = PACKED * latent_channels
        self.bn.register_buffer("running_mean", torch.zeros(packed), persistent=False)
        self.bn.register_buffer("running_var", torch.ones(packed), persistent=False)
        self.config = FrozenDict(
            latent_channels=latent_channels,
            block_out_channels=tuple(widths),
            pooled=pooled,
            scaling_factor=1.0,
            shift_factor=0.0,
            batch_norm_eps=0.0,
        )

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def decode(self, latents: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """Images in [-1, 1], as diffusers' VAEs return them without a dict."""
        images: Tensor = cast(Any, self.decoder.layers)(torch.tanh(latents / 3) * 3)
        return (images.mul(2).sub(1),)


VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "taef2": {"latent_channels": 32, "widths": (64, 64, 64, 64), "pooled": True},
    "taesana": {"latent_channels": 32, "widths": (256, 128, 64, 64, 64, 64)},
}
"""Arguments of the published ones."""


def decoder_with(weights: Mapping[str, Tensor]) -> TinyDecoder | None:
    """The variant whose decoder these weights are, with them; None where they are of none.

    weights: as the hub's files have them (`decoder.layers.0.weight`), or as the author's own, in which a layer without
    weights goes first (`decoder.1.weight`, or `1.weight` in a file of the decoder alone).
    """
    named = _by_layers(weights)
    for arguments in VARIANTS.values():
        with torch.device("meta"):
            shapes = TinyDecoder(**arguments).state_dict()
        if {name: value.shape for name, value in named.items()} == {
            name: value.shape for name, value in shapes.items()
        }:
            found = TinyDecoder(**arguments)
            found.load_state_dict(named)
            return found
    return None


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
