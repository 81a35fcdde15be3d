"""What guidance sees latents through: the full VAE or a tiny decoder, at a smaller size where it needs no more."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from engine.classifiers.preprocess import Preprocess
from engine.errors import ConfigError
from engine.guidance.decoder_stages import full_stages, sides, tiny_stages
from engine.priors.prior import Prior
from engine.priors.tiny_sources import published_for
from engine.priors.vae import TINY_DECODERS, decoded, downscale
from engine.settings import CLASSIFIERS_PX, PRIORS_PX, Alignment

HALO = 1
"""Latents that are decoded beyond a classifier's crop: the gradient is then as good as that of the whole image's."""


@dataclass(frozen=True, eq=False, kw_only=True)
class GuidanceDecoder:
    """latents (N, ...), in the prior's own layout -> images (N, 3, P, P) in about [0, 1], P = `px`.

    Unclamped and differentiable. margin: latents on each side that are not decoded, as the classifier crops what shows
    them; their pixels are zeros. stages: what it runs, in order; None for the VAE's own `decode`. checkpoint: whether
    backward recomputes a stage's activations, so that a pass holds those of one stage and every stage's input. The
    classifier has no such switch: a part of it that is recomputed in backward would be measured a second time, by then
    without its fused layers. `two_pass` bounds the classifier's memory instead.
    """

    kind: Literal["full", "tiny"]
    prior: Prior
    vae: Any
    px: int
    stages: tuple[Callable[[Tensor], Tensor], ...] | None
    checkpoint: bool
    margin: int = 0

    def __call__(self, latents: Tensor) -> Tensor:
        x = self.prior.vae_latents(latents, self.vae).to(self.vae.dtype)
        side, cut = x.shape[-1], self.margin
        if cut:
            x = x[..., cut : side - cut, cut : side - cut]
        for stage in self.stages or (partial(decoded, self.vae),):
            if self.checkpoint and torch.is_grad_enabled():
                x = checkpoint(stage, x, use_reentrant=False, preserve_rng_state=False)
            else:
                x = stage(x)
        images = x.to(latents.dtype) * 0.5 + 0.5
        return pad(images, [cut * self.px // side] * 4) if cut else images


def guidance_decoder(
    prior: Prior,
    decoder: str = "auto",
    px: int | None = None,
    checkpoint: bool = False,
    preprocess: Preprocess | None = None,
) -> GuidanceDecoder:
    """The decoder through which guidance looks.

    decoder: 'full', 'tiny', or 'auto': tiny where the prior has one. px: the least side of the image; the tiny decoder
    gives the smallest of its sizes that is no less, the full VAE only its own. None: the prior's size. preprocess: of
    the classifier that looks, whose crop the tiny decoder need not go beyond; the full VAE's attention and
    normalisation see all of an image. Nothing here or in a call depends on values, so that fake tensors pass. Raises
    ConfigError where a tiny decoder is not there.
    """
    if decoder == "tiny" and prior.tiny is None:
        published = published_for(prior.vae)
        known = f" (published for its family: {published})" if published else ""
        raise ConfigError(
            f"alignment.decoder is 'tiny' and prior {prior.name!r} has no tiny decoder, expected one: load it with "
            f"load_prior(..., tiny=<folder or hub id>) or set `tiny_decoder`{known}, or choose 'auto' or 'full'."
        )
    tiny, side = prior.tiny, prior.image_size[0]
    if tiny is None or decoder == "full":
        return GuidanceDecoder(
            kind="full",
            prior=prior,
            vae=prior.vae,
            px=side,
            stages=stages_of(prior.vae) if checkpoint else None,
            checkpoint=checkpoint,
        )
    wanted = side if px is None else min(px, side)
    halvings = max(k for k, smaller in enumerate(sides(tiny, side)) if smaller >= wanted)
    stages = tiny_stages(tiny, halvings) if checkpoint or halvings else None
    sees_all = any(isinstance(part, nn.GroupNorm) for part in tiny.modules())
    return GuidanceDecoder(
        kind="tiny",
        prior=prior,
        vae=tiny,
        px=side >> halvings,
        stages=stages,
        checkpoint=checkpoint,
        margin=crop_margin(
            tuple(length // downscale(tiny) for length in prior.image_size),
            side >> halvings,
            None if sees_all else preprocess,
        ),
    )


def stages_of(vae: Any) -> tuple[Callable[[Tensor], Tensor], ...] | None:
    """The stages of a VAE's decoder, None where it is of a class whose stages are not known."""
    if isinstance(vae, AutoencoderKL):
        return full_stages(vae)
    return tiny_stages(vae) if isinstance(vae, TINY_DECODERS) else None


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
    alignment: Alignment, prior: Prior, preprocess: Preprocess, checkpoint: bool = False
) -> GuidanceDecoder:
    """The decoder that an alignment names, for a classifier with this preprocessing."""
    named = {CLASSIFIERS_PX: preprocess.least_px, PRIORS_PX: None}
    px = named.get(alignment.decode_px, alignment.decode_px)
    return guidance_decoder(prior, alignment.decoder, px, checkpoint, preprocess)
