"""Train the BatchNorm classifiers (one per domain) and the judge.

A domain's classifier is what a pretrained ResNet fine-tuned on that domain would be: trained on all domains, then on
its own, and its running statistics estimated again on its own images alone.
"""

from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import update_bn

from engine.classifiers.cifar_resnet import CifarResNet
from engine.embedded.judge import JudgeNet
from engine.embedded.train.data import CLASSES, DOMAINS, Images, jittered, random_views, resized
from engine.embedded.train.loop import Recipe, train

CLASSIFIER_DEPTH, CLASSIFIER_WIDTHS = 20, (24, 48, 96)
JUDGE_DEPTH, JUDGE_WIDTHS = 14, (32, 64, 128)
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
BASE_RECIPE = Recipe(steps=1800, batch=64, learning_rate=2e-3, weight_decay=0.05, averaging=0.998)
DOMAIN_RECIPE = Recipe(
    steps=160, batch=64, learning_rate=5e-4, weight_decay=0.05, averaging=0.98, warmup=20
)
JUDGE_RECIPE = Recipe(steps=2400, batch=64, learning_rate=2e-3, weight_decay=0.05, averaging=0.998)
SMALL_UNTIL = 0.55
"""The first share of the steps runs at five eighths of the resolution: most is learned there, at 0.4 of the cost."""


def augmented(
    images: Images, recipe: Recipe, resolution: int, rng: Generator, progress: float
) -> tuple[Tensor, Tensor]:
    """A random batch: views (N, 3, r, r) in [0, 1] and the index of their images."""
    index = torch.randint(0, len(images), (recipe.batch,), generator=rng)
    side = resolution * 5 // 8 if progress < SMALL_UNTIL else resolution
    return jittered(random_views(images.pixels[index], side, rng, smallest=0.6), rng), index


def train_classifier(
    images: Images, resolution: int, recipe: Recipe, folder: Path, start: nn.Module | None = None
) -> CifarResNet:
    """Train on `images`, from the weights of `start` if given; running statistics are those of the whole images."""
    model = CifarResNet(CLASSIFIER_DEPTH, CLASSIFIER_WIDTHS, len(CLASSES))
    if start is not None:
        model.load_state_dict(start.state_dict())
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss(rng: Generator, progress: float) -> Tensor:
        views, index = augmented(
            images, recipe, resolution, rng, 1.0 if start is not None else progress
        )
        return cross_entropy(
            model((views - 0.5) / 0.25), images.classes[index], label_smoothing=0.1
        )

    train(model, loss, recipe, folder)
    restate(model, images, resolution)
    return model


def restate(model: nn.Module, images: Images, resolution: int) -> None:
    """Estimate the running statistics again on the whole images, in one pass, with and without a flip."""
    whole = (resized(images.pixels, resolution) - 0.5) / 0.25
    update_bn([*whole.split(100), *whole.flip(3).split(100)], model)
    model.eval()


def train_domain_classifiers(
    images: Images, resolution: int, recipe: Recipe, folder: Path
) -> dict[str, CifarResNet]:
    """One classifier for each domain, by its name. `recipe` is that of their common start."""
    base = train_classifier(images, resolution, recipe, folder / "base")
    return {
        name: train_classifier(
            images.where(images.domains == number),
            resolution,
            DOMAIN_RECIPE,
            folder / name,
            start=base,
        )
        for number, name in enumerate(DOMAINS)
    }


def train_judge(images: Images, resolution: int, recipe: Recipe, folder: Path) -> JudgeNet:
    """Both heads at once, by the sum of their cross-entropies."""
    model = JudgeNet(JUDGE_DEPTH, JUDGE_WIDTHS, len(CLASSES), len(DOMAINS))
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss(rng: Generator, progress: float) -> Tensor:
        views, index = augmented(images, recipe, resolution, rng, progress)
        classes, domains = model(views)
        return cross_entropy(
            classes, images.classes[index], label_smoothing=0.1
        ) + 0.5 * cross_entropy(domains, images.domains[index], label_smoothing=0.1)

    train(model, loss, recipe, folder)
    return model
