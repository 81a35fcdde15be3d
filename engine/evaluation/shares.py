"""Shares: how many images the judge and the classifier see as the class and the domain that was asked for."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import torch

from engine.embedded.judge import Judge
from engine.types import Sample

BATCH = 256


@dataclass(frozen=True)
class Shares:
    """Means over `images` images. All but l_bn are fractions in [0, 1].

    judge_class, judge_domain: the judge names the image's class, the domain asked for. teacher_class: the guiding
    classifier names its class. l_bn: mean of the images' published L_BN.
    """

    images: int
    judge_class: float
    judge_domain: float
    teacher_class: float
    l_bn: float


def shares(samples: Iterable[Sample], judge: Judge, domain: str) -> Shares:
    """Count over samples of the judge's classes; only one batch of images is held at a time."""
    number, distance = 0, 0.0
    right = torch.zeros(3)
    wanted = judge.domains.index(domain)
    samples = iter(samples)
    while part := list(islice(samples, BATCH)):
        classes, domains = judge(torch.stack([sample.image for sample in part]))
        truth = torch.tensor([judge.classes.index(sample.label) for sample in part])
        own = torch.tensor(
            [int(sample.logits.argmax()) == sample.key.class_index for sample in part]
        )
        right += torch.stack([(classes == truth).sum(), (domains == wanted).sum(), own.sum()])
        distance += sum(sample.l_bn for sample in part)
        number += len(part)
    judge_class, judge_domain, teacher_class = (right / number).tolist()
    return Shares(number, judge_class, judge_domain, teacher_class, distance / number)
