"""Sizes of images that a pipeline's call sets, and that it would not keep to, or cannot make."""

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

from engine.errors import ConfigError
from engine.priors.vae import downscale

Sides = Mapping[str, int | None]
"""Height and width in pixels, as a call sets them."""


def in_px(height: int, width: int) -> str:
    """The size of images in words: one number where they are square."""
    return f"{height} px" if height == width else f"{height} x {width} px (height x width)"


def check_latents(prior: str, vae: Any, asked: Sides, shape: Sequence[int]) -> None:
    """Raise ConfigError where latents of this shape, (N, ...), are none at all."""
    if not all(shape):
        raise ConfigError(
            f"the call of prior {prior!r} sets {_in_words(asked)}, too little for one latent, expected multiples of "
            f"{downscale(vae)} or more: raise them."
        )


def check_sides(prior: str, vae: Any, asked: Sides, latents: Sequence[int]) -> None:
    """Raise ConfigError where images do not have the height and width that are set.

    Some pipelines ignore one without the other (Stable Diffusion), others round both (FLUX.1).

    latents: the shape of what the VAE is handed, (N, C, H/8, W/8).
    """
    sides = dict(zip(asked, (downscale(vae) * n for n in latents[-2:]), strict=True))
    if any(length not in (None, sides[side]) for side, length in asked.items()):
        raise ConfigError(
            f"the call of prior {prior!r} sets {_in_words(asked)} and its images would have {_in_words(sides)}, "
            f"expected sides that are multiples of {downscale(vae)} or more: set both height and width, for instance "
            "to those."
        )


def check_positions(prior: str, vae: Any, network: Any, asked: Sides, shape: Sequence[int]) -> None:
    """Raise ConfigError for a size beyond the positions that a transformer knows.

    shape: of the latents, (N, C, H/8, W/8).
    """
    most = most_latents(network)
    if most is not None and max(shape[-2:]) > most:
        raise ConfigError(
            f"the call of prior {prior!r} sets {_in_words(asked)}, expected at most {most * downscale(vae)} px a side: "
            f"its {type(network).__name__} knows no more positions. Ask for smaller images."
        )


def most_latents(network: Any) -> int | None:
    """The longest side, in latents, for transformers with a table of positions; None for other networks."""
    config = network.config
    match type(network).__name__:
        case "SD3Transformer2DModel":
            return int(config.pos_embed_max_size * config.patch_size)
        case "AuraFlowTransformer2DModel":
            return int(isqrt(config.pos_embed_max_size) * config.patch_size)
        case "Lumina2Transformer2DModel":
            return int(min(config.axes_lens[1:]) * config.patch_size)
        case "ZImageTransformer2DModel":
            return int(min(config.axes_lens[1:]) * min(config.all_patch_size))
    return None


def _in_words(sides: Sides) -> str:
    return " and ".join(f"{name} {length}" for name, length in sides.items() if length is not None)
