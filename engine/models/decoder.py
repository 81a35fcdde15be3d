"""From latents to pixels, through the full VAE or a tiny one, and at a smaller size where guidance needs no more."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from engine.classifiers.preprocess import Preprocess
from engine.errors import ConfigError
from engine.models.decoder_stages import full_stages, sides, tiny_stages
from engine.settings import CLASSIFIERS_PX, PRIORS_PX, Alignment

if TYPE_CHECKING:
    from engine.models.prior import Prior

Decoder: TypeAlias = AutoencoderKL | AutoencoderTiny


HALO = 1
"""Latents that are decoded beyond a classifier's crop: the gradient is then as good as that of the whole image's."""
TILE = ("tile_latent_min_size", "tile_sample_min_size")


def downscale(vae: Decoder) -> int:
    """How many pixels of the image's side make one latent."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def decode(vae: Decoder, latents: Tensor, clamp: bool = True) -> Tensor:
    """latents (N, 4, h, w), scaled to unit variance -> images (N, 3, H, W) in [0, 1], in the latents' dtype.

    The arithmetic is diffusers' pipeline's, so that equal latents give equal bits. Differentiable; `clamp=False` leaves
    out the last clamp, which would cut the gradient of every saturated pixel: images then stray a little from [0, 1].
    """
    scaled = (latents / vae.config.scaling_factor).to(vae.dtype)
    images = vae.decode(scaled, return_dict=False)[0].to(latents.dtype) * 0.5 + 0.5
    return images.clamp(0, 1) if clamp else images


@contextmanager
def decoding_in_parts(vae: Decoder, slices: bool = False, tile: int = 0) -> Iterator[None]:
    """Inside the block `vae.decode` takes one image at a time and, of a full VAE, overlapping tiles of `tile` latents.

    Tiles are blended, and seen in the image a little. A tiny autoencoder takes none: they would assume 8 px a latent.
    """
    names = ("use_slicing", "use_tiling", *(TILE if isinstance(vae, AutoencoderKL) else ()))
    before = {name: getattr(vae, name) for name in names}
    vae.use_slicing = vae.use_slicing or slices
    if tile and isinstance(vae, AutoencoderKL):
        vae.use_tiling = True
        vae.tile_latent_min_size, vae.tile_sample_min_size = tile, tile * downscale(vae)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(vae, name, value)


@dataclass(frozen=True, eq=False, kw_only=True)
class GuidanceDecoder:
    """latents (N, 4, h, w), scaled to unit variance -> images (N, 3, P, P) in about [0, 1], P = `px`.

    Unclamped and differentiable. margin: latents on each side that are not decoded, as the classifier crops what shows
    them; their pixels are zeros. stages: what it runs, in order; None for the VAE's own `decode`. checkpoint: whether
    backward computes a stage's activations anew, so that a pass holds those of one stage and every stage's input. A
    classifier has no such switch: the pass that fuses its layers keeps their moments for the loss, and running a part
    of it again in backward would measure twice, with layers that are fused no more. `two_pass` is what bounds it.
    """

    kind: Literal["full", "tiny"]
    vae: Decoder
    px: int
    stages: tuple[Callable[[Tensor], Tensor], ...] | None
    checkpoint: bool
    margin: int = 0

    def __call__(self, latents: Tensor) -> Tensor:
        if not self.margin:
            return self._decoded(latents)
        side, cut = latents.shape[-1], self.margin
        window = self._decoded(latents[..., cut : side - cut, cut : side - cut])
        return pad(window, [cut * self.px // side] * 4)

    def _decoded(self, latents: Tensor) -> Tensor:
        if self.stages is None:
            return decode(self.vae, latents, clamp=False)
        x = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        for stage in self.stages:
            if self.checkpoint and torch.is_grad_enabled():
                x = checkpoint(stage, x, use_reentrant=False, preserve_rng_state=False)
            else:
                x = stage(x)
        return x.to(latents.dtype) * 0.5 + 0.5


def guidance_decoder(
    prior: "Prior",
    decoder: str = "auto",
    px: int | None = None,
    checkpoint: bool = False,
    preprocess: Preprocess | None = None,
) -> GuidanceDecoder:
    """The decoder through which guidance looks.

    decoder: 'full', 'tiny', or 'auto': tiny where the prior has one. px: the least side of the image; the tiny decoder
    gives the smallest of its sizes that is no less, the full VAE only its own. None: the prior's size. preprocess: of
    the classifier that looks, whose crop the tiny decoder need not go beyond; the full VAE's attention and
    normalisation see all of an image. Nothing here or
    in a call depends on values, so that fake tensors pass. Raises ConfigError where a tiny decoder is not there.
    """
    if decoder == "tiny" and prior.tiny is None:
        raise ConfigError(
            f"alignment.decoder is 'tiny' and prior {prior.name!r} has no tiny decoder, expected one: load it with "
            "load_prior(..., tiny=<folder or hub id>) or set `tiny_decoder` (for Stable Diffusion 1.x and 2.x: "
            "madebyollin/taesd), or choose 'auto' or 'full'."
        )
    side = prior.image_px
    if prior.tiny is None or decoder == "full":
        stages = None
        if checkpoint:
            stages = (
                full_stages(prior.vae)
                if isinstance(prior.vae, AutoencoderKL)
                else tiny_stages(prior.vae)
            )
        return GuidanceDecoder(
            kind="full", vae=prior.vae, px=side, stages=stages, checkpoint=checkpoint
        )
    wanted = side if px is None else min(px, side)
    halvings = max(k for k, smaller in enumerate(sides(prior.tiny, side)) if smaller >= wanted)
    stages = tiny_stages(prior.tiny, halvings) if checkpoint or halvings else None
    return GuidanceDecoder(
        kind="tiny",
        vae=prior.tiny,
        px=side >> halvings,
        stages=stages,
        checkpoint=checkpoint,
        margin=crop_margin(prior.latent_shape[1:], side >> halvings, preprocess),
    )


def crop_margin(latents: tuple[int, ...], px: int, preprocess: Preprocess | None) -> int:
    """Latents on each side of a square image of `px` that show nothing of what a classifier's crop keeps, nor near it.

    HALO more are decoded, so that what the crop shows has neighbours in the decoder's convolutions, and in resizing.
    """
    height, width = latents
    if preprocess is None or height != width or px % width:
        return 0
    resized = preprocess.least_px or px
    if isinstance(preprocess.resize, tuple) and preprocess.resize != (resized, resized):
        return 0
    pixels = px // width  # of a latent's side
    cut = (resized - max(preprocess.crop)) // 2 * px // resized
    reach = 2 * max(px / resized, 1) + 1  # of a bicubic filter
    return max(0, cut // pixels - max(HALO, ceil(reach / pixels)))


def decoder_of(
    alignment: Alignment, prior: "Prior", preprocess: Preprocess, checkpoint: bool = False
) -> GuidanceDecoder:
    """The decoder that an alignment names, for a classifier with this preprocessing."""
    named = {CLASSIFIERS_PX: preprocess.least_px, PRIORS_PX: None}
    px = named.get(alignment.decode_px, alignment.decode_px)
    return guidance_decoder(prior, alignment.decoder, px, checkpoint, preprocess)
