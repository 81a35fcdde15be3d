"""From latents to pixels, through the full VAE or a tiny one."""

from typing import TypeAlias

from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

Decoder: TypeAlias = AutoencoderKL | AutoencoderTiny


def downscale(vae: Decoder) -> int:
    """How many pixels of the image's side make one latent."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def decode(vae: Decoder, latents: Tensor, clamp: bool = True) -> Tensor:
    """latents (N, 4, h, w), scaled to unit variance -> images (N, 3, H, W) in [0, 1].

    The arithmetic is diffusers' pipeline's, so that equal latents give equal bits. Differentiable; `clamp=False` leaves
    out the last clamp, which would cut the gradient of every saturated pixel: images then stray a little from [0, 1].
    """
    images = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0] * 0.5 + 0.5
    return images.clamp(0, 1) if clamp else images
