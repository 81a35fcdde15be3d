"""What the engine asks of VAEs, and what it knows of those of Stable Diffusion."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

from engine.priors.tiny_decoder import TinyDecoder

Decoder: TypeAlias = Any
"""A VAE of diffusers, or a TinyDecoder: what has a config and `decode`."""
TINY_DECODERS = (AutoencoderTiny, TinyDecoder)

TILE = ("tile_latent_min_size", "tile_sample_min_size")


def downscale(vae: Decoder) -> int:
    """How many pixels of the image's side make one latent."""
    known = getattr(vae, "spatial_compression_ratio", None)  # where the config has no blocks
    return int(known) if known else 2 ** (len(vae.config.block_out_channels) - 1)


def latent_channels(vae: Decoder) -> int:
    """Channels of the latents that a VAE reads."""
    return int(vae.config.get("latent_channels") or vae.config["z_dim"])


def decoded(vae: Any, latents: Tensor) -> Tensor:
    """Latents as the VAE takes them, unscaled -> pixels (N, 3, H, W) in about [-1, 1]. Differentiable."""
    pixels = vae.decode(latents, return_dict=False)[0]
    # One that can do videos gives (N, 3, 1, H, W).
    return pixels[:, :, 0] if pixels.dim() == 5 else pixels


@contextmanager
def decoding_in_parts(vae: Any, slices: bool = False, tile: int = 0) -> Iterator[None]:
    """Inside the block `vae.decode` takes one image at a time and, of a full VAE, overlapping tiles of `tile` latents.

    Tiles are blended, and seen in the image a little. A tiny autoencoder takes none: they would assume 8 px a latent.
    A VAE of another class is left as it is.
    """
    tiled = isinstance(vae, AutoencoderKL)
    names = ("use_slicing", "use_tiling", *(TILE if tiled else ()))
    before = {name: getattr(vae, name) for name in names if hasattr(vae, name)}
    if "use_slicing" in before:
        vae.use_slicing = vae.use_slicing or slices
    if tile and tiled:
        vae.use_tiling = True
        vae.tile_latent_min_size, vae.tile_sample_min_size = tile, tile * downscale(vae)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(vae, name, value)
