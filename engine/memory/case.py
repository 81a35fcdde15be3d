"""One phase of a run as it might be run, and what a run holds besides it."""

from typing import NamedTuple

import torch
from torch import Tensor

from engine.memory.subject import Subject
from engine.priors import Context


class Case(NamedTuple):
    """One phase as it might be run: a part of the images at a time, with or without checkpointing.

    tile: latents on a side of the tiles in which the full VAE decodes; 0 for whole images. staged: whether a gradient
    passes the decoder first and then the denoiser, so that only one of them has a graph; see `context_gradient`.
    """

    phase: str
    images: int
    part: int
    checkpoint: bool = False
    tile: int = 0
    staged: bool = False


def run_together(subject: Subject, case: Case) -> int:
    """Images of a case that are run: those of one part, or of two where the parts share their moments."""
    alignment, learning = subject.alignment, subject.learning
    joint = alignment is not None and alignment.statistics == "batch"
    shared = {
        "guidance": joint,
        "polish": joint,
        "cat": learning is not None and learning.domain_weight > 0,
    }
    return min((2 if shared.get(case.phase) else 1) * case.part, case.images)


def latents_of(subject: Subject, images: int) -> Tensor:
    """Latents without values."""
    return torch.empty(subject.prior.latent_shape(images), device=subject.prior.device)


def context_of(subject: Subject, images: int) -> Context:
    """A context of as many images, in memory of its own."""
    return subject.context[[0] * images]
