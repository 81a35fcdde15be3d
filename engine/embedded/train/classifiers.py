"""Train the classifiers (two of each domain, one with BatchNorm and one without) and the judge.

A domain's classifier is what a pretrained network fine-tuned on that domain would be: trained on all domains, then on
its own, and where it has running statistics these are estimated again on its own images alone.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import update_bn
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetForImageClassification,
)

from engine.classifiers.architectures import residual_config
from engine.embedded.judge import JudgeNet
from engine.embedded.train.augment import erased, jittered, mixed, warped
from engine.embedded.train.data import Images, random_index, resized
from engine.embedded.train.loop import STATE, Recipe, train
from engine.embedded.train.machine import CPU, Machine

DEPTH, WIDTHS = 18, (24, 48, 96, 160)
CONVNEXT_DEPTHS, CONVNEXT_WIDTHS = (2, 2, 4, 1), (24, 48, 96, 128)
JUDGE_DEPTH, JUDGE_WIDTHS = 18, (32, 64, 128, 192)
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
BASE_RECIPE = Recipe(steps=3000, batch=64, learning_rate=2e-3, weight_decay=0.1, averaging=0.998)
DOMAIN_RECIPE = Recipe(
    steps=240, batch=64, learning_rate=4e-4, weight_decay=0.1, averaging=0.98, warmup=20
)
JUDGE_RECIPE = Recipe(steps=4000, batch=64, learning_rate=2e-3, weight_decay=0.1, averaging=0.998)
ENLARGED = 1.5
"""Side of what a network reads, relative to the images': its first layers divide the side by four."""
SMALL_UNTIL = 0.5
"""The first share of a run reads images at their own side: most is learned there, at less than half of the cost."""
BASE_SHARE = 0.75
"""Of a budget, what the common start of the domains' classifiers gets."""
KINDS: dict[str, Callable[[int], nn.Module]] = {}
"""The architectures of a domain's classifiers, by the suffix of their folders' names."""


def build_resnet(classes: int) -> ResNetForImageClassification:
    """ResNet-18, narrow."""
    widths = {"embedding_size": WIDTHS[0], "hidden_sizes": list(WIDTHS)}
    return ResNetForImageClassification(residual_config(DEPTH, num_labels=classes, **widths))


def build_convnext(classes: int) -> ConvNextForImageClassification:
    """A small ConvNeXt: LayerNorm alone, so nothing in it remembers its training images' moments."""
    config = ConvNextConfig(
        depths=list(CONVNEXT_DEPTHS), hidden_sizes=list(CONVNEXT_WIDTHS), num_labels=classes
    )
    return ConvNextForImageClassification(config)


KINDS |= {"": build_resnet, "-convnext": build_convnext}


def network_side(resolution: int) -> int:
    """The side of what a classifier of `resolution` px images reads."""
    return round(ENLARGED * resolution)


def train_classifier(
    images: Images,
    resolution: int,
    recipe: Recipe,
    folder: Path,
    start: nn.Module | None = None,
    machine: Machine = CPU,
    kind: str = "",
) -> nn.Module:
    """Train on `images`, from the weights of `start` if given; running statistics are those of the whole images."""
    model = KINDS[kind](len(images.class_names))
    if start is not None:
        model.load_state_dict(start.state_dict())
    machine.place(model).train()
    fast = machine.fast(model)
    images = images.to(machine.device)

    def loss(rng: Generator, progress: float) -> Tensor:
        index = random_index(len(images), machine.share(recipe.batch), rng)
        side = network_side(resolution)
        if start is None and progress < SMALL_UNTIL:
            side = resolution
        views = erased(jittered(warped(images.pixels[index], side, rng), rng, grey=0.15), rng)
        views, partner, share = mixed(views, rng)
        logits = fast((views - 0.5) / 0.25).logits
        truth = images.classes[index]
        one, other = (
            cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")
            for labels in (truth, truth[partner])
        )
        return (share * one + (1 - share) * other).mean()

    train(model, loss, recipe, folder, machine)
    restate(model, images, resolution)
    return model


def enlarged(pixels: Tensor, resolution: int) -> Tensor:
    """Whole images (N, 3, H, W) uint8 as a network reads them, from 0 to 1."""
    return resized(pixels, network_side(resolution))


def restate(model: nn.Module, images: Images, resolution: int) -> None:
    """Estimate the running statistics again on the whole images, in one pass, with and without a flip."""
    parts = images.pixels.split(100)
    views = ((enlarged(part, resolution) - 0.5) / 0.25 for part in (*parts, *_flipped(parts)))
    update_bn(views, model)
    model.eval()


def _flipped(parts: tuple[Tensor, ...]) -> list[Tensor]:
    return [part.flip(3) for part in parts]


def train_domain_classifiers(
    images: Images,
    resolution: int,
    recipe: Recipe,
    folder: Path,
    machine: Machine = CPU,
    kind: str = "",
) -> dict[str, nn.Module]:
    """One classifier for each domain, by its name. `recipe` is that of their common start.

    A budget is for all of them: BASE_SHARE for the start, the rest in equal parts.
    """
    limit, parts = machine.seconds, len(images.domain_names)
    first, after = machine, machine
    if limit is not None:
        first = replace(machine, seconds=BASE_SHARE * limit)
        after = replace(machine, seconds=(1 - BASE_SHARE) * limit / parts)
    base = train_classifier(images, resolution, recipe, folder / "base", None, first, kind)
    return {
        name: train_classifier(
            images.where(images.domains == number),
            resolution,
            DOMAIN_RECIPE,
            domain_folder(folder, name),
            base,
            after,
            kind,
        )
        for number, name in enumerate(images.domain_names)
    }


def domain_folder(folder: Path, domain: str) -> Path:
    """Where a domain's classifier is trained: a start that was trained further has domains of its own."""
    steps = torch.load(folder / "base" / STATE, weights_only=True)["step"]
    return folder / f"{domain}-after-{steps}"


def build_judge(images: Images) -> JudgeNet:
    """An untrained judge of these images' classes and domains."""
    return JudgeNet(JUDGE_DEPTH, JUDGE_WIDTHS, len(images.class_names), len(images.domain_names))


def train_judge(
    images: Images, resolution: int, recipe: Recipe, folder: Path, machine: Machine = CPU
) -> JudgeNet:
    """Both heads at once, by the sum of their cross-entropies."""
    model = machine.place(build_judge(images)).train()
    fast = machine.fast(model)
    images = images.to(machine.device)

    def loss(rng: Generator, progress: float) -> Tensor:
        index = random_index(len(images), machine.share(recipe.batch), rng)
        side = resolution if progress < SMALL_UNTIL else network_side(resolution)
        views = erased(jittered(warped(images.pixels[index], side, rng), rng), rng)
        classes, domains = fast(views)
        return cross_entropy(
            classes, images.classes[index], label_smoothing=0.1
        ) + 0.5 * cross_entropy(domains, images.domains[index], label_smoothing=0.1)

    train(model, loss, recipe, folder, machine)
    return model
