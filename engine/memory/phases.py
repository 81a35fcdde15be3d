"""The phases of a run, each alone: the functions that a run calls, on 'meta' to be counted, on a device to be measured.

Their inputs hold no values. Each works on one part of `part` images out of `images`, and holds besides it what a run
holds of all of them.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, TypeVar

import torch

from engine.guidance.assembly import guidance_of, is_prepared
from engine.guidance.decoder import GuidanceDecoder
from engine.guidance.move import AtOnce, Guidance
from engine.guidance.polish import polishing
from engine.memory.case import Case, context_of, latents_of, run_together
from engine.memory.count import Record, counting
from engine.memory.learning_phases import cat, rows
from engine.memory.subject import Subject
from engine.priors.vae import decoding_in_parts
from engine.sampling.loop import sample
from engine.sampling.stages import finished
from engine.settings import Alignment

T = TypeVar("T")


class Counted(NamedTuple):
    """What a phase takes besides the weights: the peak of its parts, and the work of one of `parts`."""

    peak_bytes: int
    flops: int
    operators: int
    parts: int


def run_case(subject: Subject, case: Case) -> object:
    """Run a case; what it holds at its end is returned."""
    return PHASES[case.phase](subject, case)


def count_case(subject: Subject, case: Case, record: Record | None = None) -> Counted:
    """Run a case and count it, and record it where there is a record."""
    if not _is_prepared(subject, case.phase):
        # Its count is dropped: on 'meta', operators are fast where they are counted.
        with counting():
            run_case(subject, Case(case.phase, 1, 1))
    with counting(record) as count:
        run_case(subject, case)
    run = -(-run_together(subject, case) // case.part)
    parts = -(-case.images // case.part)
    return Counted(count.peak, count.flops // run, count.operators // run, parts)


def _is_prepared(subject: Subject, phase: str) -> bool:
    """Whether a phase costs no pass before its first."""
    if phase == "cat":
        learns = subject.learning is not None and subject.learning.domain_weight > 0
        return not learns or is_prepared(subject.classifier, Alignment(layers="uniform"))
    return phase not in ("guidance", "polish") or is_prepared(
        subject.classifier, _alignment(subject)
    )


def text(subject: Subject, case: Case) -> object:
    """The prompts' contexts, no two images of one prompt."""
    with torch.no_grad():
        held = context_of(subject, case.images)
        part = subject.prior.encode(["a"] * case.part, subject.negative)
    return held, part


def sampling(subject: Subject, case: Case) -> object:
    """One step with classifier-free guidance."""
    with torch.no_grad():
        z, context = latents_of(subject, case.images), context_of(subject, case.images)
        held = [torch.empty_like(z) for _ in range(3)]  # what parts predicted, and the next latents
        denoise = subject.prior.denoiser(context[: case.part], subject.cfg)
        return held, sample(z[: case.part], denoise, subject.prior.schedule(2)[:1])


def guidance(subject: Subject, case: Case) -> object:
    """The gradient that latents move down, through the decoder and the classifier."""
    decoder = subject.decoder(case.checkpoint)
    assert decoder is not None
    z, held = latents_of(subject, case.images), context_of(subject, case.images)
    prediction = [torch.empty_like(z) for _ in range(3)]
    rows = z[: run_together(subject, case)]
    found = _guidance(subject, decoder, len(rows), case.part)
    return held, prediction, found.descend(rows, found.scale)


def _guidance(subject: Subject, decoder: GuidanceDecoder, images: int, part: int) -> Guidance:
    """The guidance of a group of images that are seen in parts."""
    classes = torch.zeros(images, dtype=torch.int64, device=subject.prior.device)

    return guidance_of(
        subject.classifier, _alignment(subject), decoder, classes, _in_parts_of(part)
    )


def _in_parts_of(part: int) -> AtOnce:
    def at_once(images: int, work: Callable[[int], T]) -> T:  # noqa: ARG001
        return work(part)

    return at_once


def _alignment(subject: Subject) -> Alignment:
    """The settings but for weights of layers: these are values, which a skeleton lacks, and change no shape."""
    assert subject.alignment is not None
    return replace(subject.alignment, layers="uniform")


def decode(subject: Subject, case: Case) -> object:
    """The final images, and what the classifier says of them."""
    with torch.no_grad():
        z, size = latents_of(subject, case.images), subject.prior.image_size
        held = torch.empty(case.images, 3, *size, device=subject.prior.device)
        with decoding_in_parts(subject.prior.vae, tile=case.tile):
            return held, finished(subject.prior, subject.classifier, z[: case.part])


def polish(subject: Subject, case: Case) -> object:
    """A move of the finished images' pixels, by a gradient through the classifier alone."""
    images = torch.empty(case.images, 3, *subject.prior.image_size, device=subject.prior.device)
    rows = images[: run_together(subject, case)]
    classes = torch.zeros(len(rows), dtype=torch.int64, device=subject.prior.device)
    guidance = polishing(subject.classifier, _alignment(subject), classes, _in_parts_of(case.part))
    with torch.no_grad():
        return [torch.empty_like(images) for _ in range(3)], guidance.moved(rows, 0.0)


PHASES: dict[str, Callable[[Subject, Case], object]] = {
    "text": text,
    "sampling": sampling,
    "guidance": guidance,
    "decode": decode,
    "polish": polish,
    "cat": cat,
    "rows": rows,
}
