"""Write trained classifiers and the judge as the folders that ship, in float16, with cards."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import ConvNextForImageClassification

from engine.classifiers.preprocess import Preprocess
from engine.classifiers.sources import load_classifier, save_classifier
from engine.embedded.judge import JudgeNet, load_judge
from engine.embedded.train.cards import card, half
from engine.embedded.train.classifiers import (
    DEPTH,
    DOMAIN_RECIPE,
    JUDGE_DEPTH,
    JUDGE_WIDTHS,
    MEAN,
    STD,
    enlarged,
    network_side,
)
from engine.embedded.train.data import CLASSES, DOMAINS, Images
from engine.embedded.train.loop import Recipe

RESNET = "A BatchNorm ResNet, trained on all domains, fine-tuned on one; its running statistics are of that one alone."
CONVNEXT = "A ConvNeXt without BatchNorm, trained on all domains, fine-tuned on one."
Parts = Mapping[str, Images]
"""Images that a network's accuracy is measured on, by their name on its card."""


def pack_classifier(
    model: nn.Module, domain: str, resolution: int, recipe: Recipe, folder: Path, parts: Parts
) -> None:
    """A folder that `load_classifier` reads."""
    preprocess = Preprocess.squash(network_side(resolution), mean=MEAN, std=STD)
    save_classifier(
        folder,
        model.cpu(),
        architecture=f"resnet{DEPTH}",
        labels=CLASSES,
        preprocess=preprocess,
        domain=domain,
    )
    logits = load_classifier(folder, device="cpu").logits
    classifier_card(folder, domain, recipe, parts, logits, RESNET)


def pack_convnext(
    model: ConvNextForImageClassification,
    domain: str,
    resolution: int,
    recipe: Recipe,
    folder: Path,
    parts: Parts,
) -> None:
    """A transformers folder with its image processor."""
    side = network_side(resolution)
    model.cpu().half()
    model.config.id2label = dict(enumerate(CLASSES))
    model.config.label2id = {label: number for number, label in enumerate(CLASSES)}
    model.save_pretrained(folder, safe_serialization=True)
    settings = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    model.float()
    preprocess = Preprocess.squash(side, mean=MEAN, std=STD)

    def logits(images: Tensor) -> Tensor:
        return model(preprocess(images)).logits

    classifier_card(folder, domain, recipe, parts, logits, CONVNEXT)


def classifier_card(
    folder: Path,
    domain: str,
    recipe: Recipe,
    parts: Parts,
    logits: Callable[[Tensor], Tensor],
    summary: str,
) -> None:
    """The card of a packed classifier. recipe: of its start. Of `parts` those of its domain are looked at."""
    own = {
        name: images.where(images.domains == DOMAINS.index(domain))
        for name, images in parts.items()
    }
    card(
        folder,
        f"Classifier of the domain {domain}",
        summary,
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
    network.cpu().eval()
    with torch.no_grad():
        features = torch.cat(
            [network.features(enlarged(part, resolution)) for part in reference.pixels.split(200)]
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
        "resolution": network_side(resolution),
        "classes": CLASSES,
        "domains": DOMAINS,
    }
    (folder / "config.json").write_text(json.dumps(facts, indent=2) + "\n")
    judge_card(folder, recipe, parts)


def judge_card(folder: Path, recipe: Recipe, parts: Parts) -> None:
    """The card of the packed judge."""
    judge = load_judge(folder)
    card(
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
