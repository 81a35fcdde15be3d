"""Whether a classifier is fed as it was trained: what it says of images under other preprocessing than its own.

A network that gets the wrong order of channels or the wrong scale seldom fails; it guesses. Besides its own way, it
sees the same images in the other order of channels and at the usual scales. Where it recognises them clearly better,
that is probably how it was trained.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from engine.classifiers import Classifier, Preprocess
from engine.classifiers.preprocess import IMAGENET_MEAN, IMAGENET_STD, Channels

OWN = "as it is loaded"
BYTE = 255.0
CAFFE_MEAN = (103.939 / BYTE, 116.779 / BYTE, 123.68 / BYTE)
"""Of blue, green and red, as networks from Caffe subtract it."""
CLEARLY = 0.15
"""A share of images, or a confidence, that is higher by this much is no accident of a few images."""
SCALES: dict[str, tuple[dict[str, Any], str]] = {
    "pixels from 0 to 1": ({"mean": 0.0, "std": 1.0}, "--mean 0 --std 1"),
    "pixels from -1 to 1": ({"mean": 0.5, "std": 0.5}, "--mean 0.5 --std 0.5"),
    "ImageNet's mean and std": (
        {"mean": IMAGENET_MEAN, "std": IMAGENET_STD},
        "--mean 0.485 0.456 0.406 --std 0.229 0.224 0.225",
    ),
    "pixels from 0 to 255": (
        {"mean": 0.0, "std": 1 / BYTE},
        "--mean 0 --std 1 --pixel-max 255",
    ),
    "blue first, less Caffe's mean": (
        {"mean": CAFFE_MEAN, "std": 1 / BYTE, "channels": "bgr"},
        "--mean 103.939 116.779 123.68 --std 1 --pixel-max 255 --channels bgr",
    ),
}
"""Preprocessing that networks are often trained with, and the options that ask for it."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a classifier says of some images under one preprocessing.

    Attributes:
        name: of the preprocessing.
        options: of the command line that ask for it; "" for the classifier's own.
        recognised: share of the images whose class has the highest score; None where no class is known.
        confidence: mean probability of the class with the highest score.
        classes: how many classes have the highest score of some image.
    """

    name: str
    options: str
    recognised: float | None
    confidence: float
    classes: int

    @property
    def merit(self) -> float:
        """What readings are compared by: the share that is recognised, else the confidence."""
        return self.confidence if self.recognised is None else self.recognised


def readings(
    classifier: Classifier, images: Iterable[Tensor], classes: Tensor | None
) -> list[Reading]:
    """What a classifier says of the same images under its own preprocessing, which comes first, and under others.

    Args:
        classifier: frozen.
        images: batches (N, 3, H, W) in [0, 1].
        classes: (M,), of all images in order, -1 where one is of no known class; None where none is known.
    """
    found = variants(classifier.preprocess)
    logits: dict[str, list[Tensor]] = {name: [] for name, _, _ in found}
    with torch.no_grad():
        for batch in images:
            for name, _, reads in found:
                seen = replace(classifier, preprocess=reads).logits(batch.to(classifier.device))
                logits[name].append(seen.cpu())
    return [_reading(name, options, torch.cat(logits[name]), classes) for name, options, _ in found]


def variants(own: Preprocess) -> list[tuple[str, str, Preprocess]]:
    """Names, options and preprocessing: the classifier's own, the other order of its channels, and the usual scales."""
    other: Channels = "rgb" if own.channels == "bgr" else "bgr"
    found = [(OWN, "", own)]
    candidates = [
        (f"channels as {other}", f"--channels {other}", replace(own, channels=other)),
        *(
            (name, options, replace(own, **{"channels": "rgb", **changes}))
            for name, (changes, options) in SCALES.items()
        ),
    ]
    for candidate in candidates:
        if candidate[2] not in [reads for _, _, reads in found]:
            found.append(candidate)
    return found


def better(found: list[Reading]) -> Reading | None:
    """The reading that is clearly better than the classifier's own, if one is."""
    best = max(found[1:], key=lambda one: one.merit)
    return best if best.merit >= found[0].merit + CLEARLY else None


def by_chance(found: list[Reading], classes: int, images: int) -> bool:
    """Whether no reading recognises more of the images than guessing one of so many classes does, but for luck.

    Luck: two standard deviations of the share that guessing gets right.
    """
    shares = [one.recognised for one in found if one.recognised is not None]
    chance = 1 / classes
    luck = 2 * sqrt(chance * (1 - chance) / images)
    return bool(shares) and max(shares) <= chance + luck


def _reading(name: str, options: str, logits: Tensor, classes: Tensor | None) -> Reading:
    highest = logits.softmax(1).max(1)
    share = None
    if classes is not None and bool((known := classes >= 0).any()):
        share = (highest.indices[known] == classes[known]).float().mean().item()
    return Reading(
        name=name,
        options=options,
        recognised=share,
        confidence=highest.values.mean().item(),
        classes=len(highest.indices.unique()),
    )
