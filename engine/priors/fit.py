"""Whether the parts of a pipeline belong together, where their configs say so."""

from typing import Any

from engine.errors import ModelError
from engine.priors.roles import text_encoder_names


def check_fit(pipe: Any, source: str) -> None:
    """Raise ModelError for a UNet that does not map latents to latents, or reads another context.

    Transformers pack latents, each family in its own way, so nothing is said of those.
    """
    unet = getattr(pipe, "unet", None)
    if unet is None:
        return
    channels, latent = unet.config.in_channels, pipe.vae.config.latent_channels
    if channels != latent or unet.config.out_channels != latent:
        raise ModelError(
            f"the UNet of prior {source!r} maps {channels} channels to {unet.config.out_channels} and "
            f"its vae has {latent}, expected all equal: inpainting, depth and upscaling models are not "
            "text-to-image priors. Choose the base model."
        )
    widths = [getattr(pipe, name).config.hidden_size for name in text_encoder_names(pipe)]
    reads, writes = unet.config.cross_attention_dim, sum(widths)
    if reads != writes and unet.config.encoder_hid_dim is None:
        raise ModelError(
            f"the UNet of prior {source!r} reads a context of width {reads} and its text encoder writes "
            f"{writes}, expected the same width: take both parts from the same model."
        )
