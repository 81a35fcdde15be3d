"""Write trained networks as the weights that ship: float16 folders with cards and sample sheets."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from engine.classifiers.preprocess import Preprocess
from engine.classifiers.sources import load_classifier, save_classifier
from engine.embedded.captions import NEUTRAL, caption, styled_prompt
from engine.embedded.judge import JudgeNet, load_judge
from engine.embedded.train.autoencoder import psnr_db
from engine.embedded.train.classifiers import (
    CLASSIFIER_DEPTH,
    DOMAIN_RECIPE,
    JUDGE_DEPTH,
    JUDGE_WIDTHS,
    MEAN,
    STD,
)
from engine.embedded.train.data import CLASSES, DOMAINS, Images, resized
from engine.embedded.train.loop import Recipe
from engine.embedded.train.prior import PriorNetworks, build_scheduler, build_tokenizer
from engine.embedded.train.tiny_decoder import likeness_db
from engine.settings import Sampling

LICENCE = "Weights: Apache-2.0. PACS (Li et al. 2017) was used for training and is not contained."
SHEET_PX = 96
SAMPLE_STEPS = 30
"""Of the images in a prior's samples.png."""
RECIPE_LINE = "recipe, part"
Parts = Mapping[str, Images]
"""Images that a network's accuracy is measured on, by their name on its card."""


def half(module: nn.Module) -> dict[str, Tensor]:
    """A state dict in float16, but for vectors and scalars: running variances need float32's range."""
    return {
        name: value.half().contiguous() if value.dim() > 1 else value.contiguous()
        for name, value in module.state_dict().items()
    }


def sheet(rows: list[Tensor]) -> Image.Image:
    """Rows of images (C, 3, H, W) in [0, 1], all of one shape, as one picture with thin white gaps."""
    grid = torch.nn.functional.pad(torch.stack(rows), (1, 1, 1, 1), value=1.0)
    high, wide, _, height, width = grid.shape
    pixels = grid.permute(0, 3, 1, 4, 2).reshape(high * height, wide * width, 3)
    picture = Image.fromarray((pixels * 255).round().byte().numpy())
    zoom = max(1, SHEET_PX // height)
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def pack_prior(
    vae: AutoencoderTiny,
    networks: PriorNetworks,
    images: Images,
    resolution: int,
    recipe: Recipe,
    folder: Path,
    start: Path | None = None,
) -> None:
    """A diffusers folder, with samples drawn by diffusers' own pipeline."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=networks.text_encoder,
        tokenizer=build_tokenizer(),
        unet=networks.unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    rows = []
    for index, domain in enumerate((None, *DOMAINS)):
        prompts = [
            caption(NEUTRAL[0], noun) if domain is None else styled_prompt(domain, noun)
            for noun in CLASSES
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
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    for config in folder.glob("*/config.json"):
        facts = json.loads(config.read_text())
        facts.pop(
            "_name_or_path", None
        )  # the folder that a continued part came from is nobody's business
        config.write_text(json.dumps(facts, indent=2) + "\n")
    unet = sum(value.numel() for value in networks.unet.parameters())
    _card(
        folder,
        "Embedded text-to-image prior",
        f"A latent diffusion model for {resolution} px images: UNet ({unet / 1e6:.1f} M parameters, v-prediction), a "
        "two-layer CLIP text encoder with its own vocabulary, and a tiny autoencoder.",
        {
            "data": "PACS, the part for priors (5,002 images), each pair of domain and class drawn equally often",
            "captions": "the seven classes; 45 % do not tell the domain, 10 % are empty",
            **history,
            f"{RECIPE_LINE} {len(history) + 1}": str(recipe),
            "autoencoder, PSNR on these images": f"{psnr:.1f} dB",
            "samples.png": "rows: 'a <class>', then the four domains' prompts; columns: "
            + ", ".join(CLASSES),
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
    _card(
        folder,
        "Tiny decoder of the embedded prior",
        f"What guidance looks through: the autoencoder's decoder, distilled into {decoder / 1e3:.0f} k parameters.",
        {
            "data": "PACS, the part for priors (5,002 images), through the autoencoder",
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


def pack_classifier(
    model: nn.Module, domain: str, resolution: int, recipe: Recipe, folder: Path, parts: Parts
) -> None:
    """A folder that `load_classifier` reads."""
    preprocess = Preprocess.squash(resolution, mean=MEAN, std=STD)
    name = f"resnet{CLASSIFIER_DEPTH}"
    save_classifier(
        folder, model, architecture=name, labels=CLASSES, preprocess=preprocess, domain=domain
    )
    classifier_card(folder, domain, recipe, parts)


def classifier_card(folder: Path, domain: str, recipe: Recipe, parts: Parts) -> None:
    """The card of a packed classifier. recipe: of its start. Of `parts` those of its domain are looked at."""
    logits = load_classifier(folder, device="cpu").logits
    own = {
        name: images.where(images.domains == DOMAINS.index(domain))
        for name, images in parts.items()
    }
    _card(
        folder,
        f"Classifier of the domain {domain}",
        "A BatchNorm ResNet, trained on all domains, fine-tuned on one; its running statistics are of that one alone.",
        {
            "data": "PACS, the part for classifiers (3,001 images)",
            "recipe of the start": str(recipe),
            "recipe of the fine-tuning": str(DOMAIN_RECIPE),
            **_accuracies(lambda images: (logits(images),), own),
        },
    )


def pack_judge(
    network: JudgeNet,
    reference: Images,
    resolution: int,
    recipe: Recipe,
    folder: Path,
    parts: Parts,
) -> None:
    """The judge with its features of the real images in `reference`."""
    network.eval()
    with torch.no_grad():
        features = torch.cat(
            [network.features(resized(part, resolution)) for part in reference.pixels.split(200)]
        )
    folder.mkdir(parents=True, exist_ok=True)
    save_file(half(network), folder / "model.safetensors")
    kept = {
        "features": features.half(),
        "classes": reference.classes.to(torch.uint8),
        "domains": reference.domains.to(torch.uint8),
    }
    save_file(kept, folder / "reference.safetensors")
    facts = {
        "depth": JUDGE_DEPTH,
        "widths": JUDGE_WIDTHS,
        "resolution": resolution,
        "classes": CLASSES,
        "domains": DOMAINS,
    }
    (folder / "config.json").write_text(json.dumps(facts, indent=2) + "\n")
    judge_card(folder, recipe, parts)


def judge_card(folder: Path, recipe: Recipe, parts: Parts) -> None:
    """The card of the packed judge."""
    judge = load_judge(folder)
    _card(
        folder,
        "Judge",
        "A ResNet with a head for the class and one for the domain, for evaluation only: guidance never sees it.",
        {
            "data": "PACS, the parts for priors and for classifiers (8,003 images)",
            "recipe": str(recipe),
            **_accuracies(judge.logits, parts),
            "reference.safetensors": f"features of {len(judge.reference):,} real images, the part for classifiers",
        },
    )


@torch.no_grad()
def _accuracies(logits_of: Callable[[Tensor], tuple[Tensor, ...]], parts: Parts) -> dict[str, str]:
    """A card's lines on how often a packed network is right, and its mean cross-entropy.

    logits_of: images (N, 3, H, W) in [0, 1] -> logits of the classes and, of a judge, of the domains.
    """
    lines = {}
    for name, images in parts.items():
        truths = {"class": images.classes, "domain": images.domains}
        found = [logits_of(pixels / 255) for pixels in images.pixels.split(200)]
        for (what, truth), head in zip(truths.items(), zip(*found, strict=True), strict=False):
            logits = torch.cat(head)
            right, loss = (logits.argmax(1) == truth).float().mean(), cross_entropy(logits, truth)
            lines[f"{what} of its {len(truth):,} {name}"] = (
                f"{100 * right:.1f} % right, cross-entropy {loss:.2f}"
            )
    return lines


def _card(folder: Path, title: str, summary: str, facts: dict[str, str]) -> None:
    lines = [
        f"# {title}",
        "",
        summary,
        "",
        *(f"- **{name}**: {value}" for name, value in facts.items()),
    ]
    (folder / "README.md").write_text("\n".join([*lines, "", LICENCE, ""]))
