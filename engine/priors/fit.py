"""Whether the parts of a pipeline belong together, where their configs say so."""

from typing import Any

from engine.errors import ModelError
from engine.priors.roles import TEXT_ENCODER, TOKENIZER, text_encoder_names
from engine.priors.vae import latent_channels

UNPACKED = frozenset(
    f"{family}Transformer2DModel"
    for family in ("SD3", "PixArt", "Sana", "AuraFlow", "Lumina2", "ZImage")
)
"""Transformers whose inputs hold one latent each."""
PACKED = frozenset(
    f"{family}Transformer2DModel" for family in ("Flux", "Chroma", "Flux2", "QwenImage")
)
"""Transformers whose inputs hold 2 x 2 neighbouring latents each."""
SHIFTED = frozenset(
    f"{family}Transformer2DModel" for family in ("SD3", "Flux", "Chroma", "Lumina2", "ZImage")
)
"""Transformers whose pipelines add the `shift_factor` of a VAE's config to its latents."""


def check_fit(pipe: Any, source: str) -> None:
    """Raise ModelError for a network that does not map latents to latents, or parts of other models."""
    _check_vocabularies(pipe, source)
    unet = getattr(pipe, "unet", None)
    if unet is None:
        _check_transformer(pipe.transformer, pipe.vae, source)
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


def _check_transformer(transformer: Any, vae: Any, source: str) -> None:
    """Raise ModelError for a transformer of a known family that reads more than latents, or another VAE's."""
    kind = type(transformer).__name__
    if kind not in UNPACKED | PACKED:
        return
    each = 4 if kind in PACKED else 1
    channels, expected = transformer.config.in_channels, each * latent_channels(vae)
    if channels != expected:
        raise ModelError(
            f"the {kind} of prior {source!r} reads {channels} channels and latents of its vae have {expected} "
            "as it reads them, expected as many: inpainting, fill and control models are not text-to-image priors. "
            "Choose the base model, or take both parts from the same model."
        )
    if kind in SHIFTED and vae.config.get("shift_factor") is None:
        raise ModelError(
            f"the vae of prior {source!r} has no shift_factor in its config, expected one, which the pipeline of a "
            f"{kind} adds to latents: take the vae of this prior's family."
        )


def _check_vocabularies(pipe: Any, source: str) -> None:
    """Raise ModelError for a tokenizer without words: it loads without its files and without an error."""
    for name in text_encoder_names(pipe):
        name = name.replace(TEXT_ENCODER, TOKENIZER)
        tokenizer = getattr(pipe, name)
        if len(tokenizer.get_vocab()) - len(tokenizer.get_added_vocab()) < 2:
            raise ModelError(
                f"the {name} of prior {source!r} knows no words, expected its vocabulary, such as a tokenizer.json: "
                "fetch or save it again."
            )
