"""Write a trained prior and its narrow decoder as the folders that ship, in float16, with cards and samples."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline

from engine.embedded.captions import (
    AMBIGUOUS,
    DROP_CAPTION,
    DROP_DOMAIN,
    KINDS,
    NEUTRAL,
    OTHER_WORD,
    caption,
    styled_prompt,
)
from engine.embedded.train.autoencoder import psnr_db
from engine.embedded.train.cards import card, forget_origin, sheet
from engine.embedded.train.data import Images
from engine.embedded.train.loop import Recipe
from engine.embedded.train.prior_networks import PriorNetworks, build_scheduler, build_tokenizer
from engine.embedded.train.tiny_decoder import likeness_db
from engine.settings import Sampling

SAMPLE_STEPS = 30
"""Of the images in a prior's samples.png."""
RECIPE_LINE = "recipe, part"


def pack_prior(
    vae: AutoencoderTiny,
    networks: PriorNetworks,
    images: Images,
    resolution: int,
    recipe: Recipe,
    folder: Path,
    start: Path | None = None,
    device: str = "cpu",
    autoencoder: Mapping[str, Recipe] | None = None,
    processes: str = "one",
    loss: float | None = None,
) -> None:
    """A diffusers folder with samples by diffusers' own pipeline on `device`. autoencoder: its stages' recipes.

    processes: how many trained it, and what they shared, in words. loss: where its training ended.
    """
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=networks.text_encoder,
        tokenizer=build_tokenizer(images.class_names, images.domain_names),
        unet=networks.unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    rows = []
    for index, domain in enumerate((None, *images.domain_names)):
        prompts = [
            caption(NEUTRAL[0], noun) if domain is None else styled_prompt(domain, noun)
            for noun in images.class_names
        ]
        rng = [
            torch.Generator().manual_seed(1000 * index + number) for number in range(len(prompts))
        ]
        drawn = pipeline(
            prompts,
            num_inference_steps=SAMPLE_STEPS,
            guidance_scale=Sampling().cfg,
            eta=Sampling().eta,
            generator=rng,
            output_type="pt",
        ).images
        rows.append(drawn.cpu())
    psnr = psnr_db(vae, images, resolution)
    history = _recipes(start)
    folder.mkdir(parents=True, exist_ok=True)
    sheet(rows).save(folder / "samples.png")
    pipeline.to("cpu", torch.float16).save_pretrained(folder, safe_serialization=True)
    forget_origin(folder)
    unet = sum(value.numel() for value in networks.unet.parameters())
    card(
        folder,
        "Embedded text-to-image prior",
        f"A latent diffusion model for {resolution} px images: UNet ({unet / 1e6:.1f} M parameters, v-prediction), a "
        "two-layer CLIP text encoder with its own vocabulary, and a tiny autoencoder.",
        {
            "data": f"{len(images):,} images, each pair of domain and class drawn equally often "
            "except where a recipe says twice",
            "captions": f"the {len(images.class_names)} classes; {DROP_DOMAIN:.0%} do not tell the domain, "
            f"{DROP_CAPTION:.0%} are empty. In {OTHER_WORD:.0%} of each class's captions another word replaces its "
            f"name: {_other_words(images.class_names)}",
            **history,
            f"{RECIPE_LINE} {len(history) + 1}": str(recipe),
            "samples of that part": f"{recipe.steps * recipe.batch:,}"
            + ("" if loss is None else f"; loss at its end {loss:.3f}"),
            "processes": processes,
            **{f"autoencoder, {stage}": str(own) for stage, own in (autoencoder or {}).items()},
            "autoencoder, PSNR on these images": f"{psnr:.1f} dB",
            "samples.png": "rows: 'a <class>', then each domain's prompt; columns: "
            + ", ".join(images.class_names),
        },
    )


def pack_tiny(
    narrow: AutoencoderTiny,
    vae: AutoencoderTiny,
    images: Images,
    resolution: int,
    recipe: Recipe,
    folder: Path,
) -> None:
    """The narrow decoder, in the prior's folder. The autoencoder's scaling factor is set when a prior is trained."""
    narrow.register_to_config(scaling_factor=vae.config.scaling_factor)
    likeness = likeness_db(narrow, vae, images, resolution)
    narrow.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    decoder = sum(value.numel() for value in narrow.decoder.parameters())
    card(
        folder,
        "Tiny decoder of the embedded prior",
        f"What guidance looks through: the autoencoder's decoder, distilled into {decoder / 1e3:.0f} k parameters.",
        {
            "data": f"{len(images):,} images through the autoencoder",
            "recipe": str(recipe),
            "PSNR against the autoencoder's own decoder": f"{likeness:.1f} dB",
        },
    )


def _recipes(start: Path | None) -> dict[str, str]:
    """The recipes on the card of the prior that this one was continued from, in order."""
    if start is None:
        return {}
    lines = re.findall(
        r"^- \*\*recipe[^*]*\*\*: (.*)$", (start / "README.md").read_text(), re.MULTILINE
    )
    return {f"{RECIPE_LINE} {number}": recipe for number, recipe in enumerate(lines, start=1)}


def _other_words(names: tuple[str, ...]) -> str:
    found = {
        word: [noun for noun in nouns if noun in names]
        for word, nouns in (KINDS | AMBIGUOUS).items()
    }
    return "; ".join(f"{word} ({', '.join(nouns)})" for word, nouns in found.items() if nouns)
