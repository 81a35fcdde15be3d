"""The phases of a run, each alone: the functions that a run calls, on 'meta' to be counted, on a device to be measured.

Their inputs hold no values. Each works on one part of `part` images out of `images`, and holds beside it what a run
holds of all of them.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from engine.guidance.assembly import guidance_of, is_prepared
from engine.guidance.decoder import GuidanceDecoder
from engine.guidance.move import Guidance, Unguided
from engine.memory.count import counting
from engine.memory.subject import Subject
from engine.priors import Context
from engine.priors.vae import decoding_in_parts
from engine.sampling.finished import finished
from engine.sampling.loop import sample
from engine.settings import Alignment, Sampling, TokenLearning
from engine.tokens.attached import attached
from engine.tokens.gradient import context_gradient, rows_gradient, token_domain
from engine.tokens.table import TokenTable, encoder_widths, placeholders
from engine.tokens.trajectories import Trajectories
from engine.types import ImageKey

T = TypeVar("T")


class Case(NamedTuple):
    """One phase as it might be run: a part of the images at a time, with or without checkpointing.

    tile: latents on a side of the tiles in which the full VAE decodes; 0 for whole images.
    """

    phase: str
    images: int
    part: int
    checkpoint: bool = False
    tile: int = 0


class Counted(NamedTuple):
    """What a phase takes beside the weights: the peak of its parts, and the work of one of `parts`."""

    peak_bytes: int
    flops: int
    operators: int
    parts: int


def run_case(subject: Subject, case: Case) -> object:
    """Run a case; what it holds at its end is returned."""
    return PHASES[case.phase](subject, case)


def count_case(subject: Subject, case: Case) -> Counted:
    """Run a case and count it."""
    if case.phase in SEEN and not _is_prepared(subject):
        run_case(subject, Case(case.phase, 1, 1))
    with counting() as count:
        run_case(subject, case)
    run = -(-_run_together(subject, case) // case.part)
    parts = -(-case.images // case.part)
    return Counted(count.peak, count.flops // run, count.operators // run, parts)


def _run_together(subject: Subject, case: Case) -> int:
    """Images of a case that are run: those of one part, or of two where the parts share their moments."""
    alignment, learning = subject.alignment, subject.learning
    shared = {
        "guidance": alignment is not None and alignment.statistics == "batch",
        "cat": learning is not None and learning.domain_weight > 0,
    }
    return min((2 if shared.get(case.phase) else 1) * case.part, case.images)


def _latents(subject: Subject, images: int) -> Tensor:
    return torch.empty(subject.prior.latent_shape(images), device=subject.prior.device)


def _context(subject: Subject, images: int) -> Context:
    """A context of as many images, in memory of its own."""
    return subject.context[[0] * images]


def text(subject: Subject, case: Case) -> object:
    """The prompts' contexts, no two images of one prompt."""
    with torch.no_grad():
        held = _context(subject, case.images)
        part = subject.prior.encode(["a"] * case.part, subject.negative)
    return held, part


def sampling(subject: Subject, case: Case) -> object:
    """One step with classifier-free guidance."""
    with torch.no_grad():
        z, context = _latents(subject, case.images), _context(subject, case.images)
        held = [torch.empty_like(z) for _ in range(3)]  # what parts predicted, and the next latents
        denoise = subject.prior.denoiser(context[: case.part], subject.cfg)
        return held, sample(z[: case.part], denoise, subject.prior.schedule(2)[:1])


def guidance(subject: Subject, case: Case) -> object:
    """The gradient that latents move down, through the decoder and the classifier."""
    decoder = subject.decoder(case.checkpoint)
    assert decoder is not None
    z, held = _latents(subject, case.images), _context(subject, case.images)
    prediction = [torch.empty_like(z) for _ in range(3)]
    rows = z[: _run_together(subject, case)]
    found = _guidance(subject, decoder, len(rows), case.part)
    return held, prediction, found.descend(rows, found.scale)


def _guidance(subject: Subject, decoder: GuidanceDecoder, images: int, part: int) -> Guidance:
    """The guidance of a group of images that are seen in parts."""
    classes = torch.zeros(images, dtype=torch.int64, device=subject.prior.device)

    def at_once(_: int, work: Callable[[int], T]) -> T:
        return work(part)

    return guidance_of(subject.classifier, _alignment(subject), decoder, classes, at_once)


def _alignment(subject: Subject) -> Alignment:
    """The settings but for weights of layers: these are values, which a skeleton lacks, and change no shape."""
    assert subject.alignment is not None
    return replace(subject.alignment, layers="uniform")


def decode(subject: Subject, case: Case) -> object:
    """The final images, and what the classifier says of them."""
    with torch.no_grad():
        z, size = _latents(subject, case.images), subject.prior.image_size
        held = torch.empty(case.images, 3, *size, device=subject.prior.device)
        with decoding_in_parts(subject.prior.vae, tile=case.tile):
            return held, finished(subject.prior, subject.classifier, z[: case.part])


def cat(subject: Subject, case: Case) -> object:
    """A token's gradient back to the prompts' context: through the classifier, the decoder and one step.

    The published last step runs both branches of CFG with a graph, an early one the conditional branch alone.
    """
    prior, learning = subject.prior, subject.learning or TokenLearning.paper()
    drawing = [part.module for part in prior.components() if part.role in ("denoiser", "decoder")]
    with checkpointed(drawing if case.checkpoint else ()):
        held = _context(subject, case.images), _latents(subject, case.images)
        images = _run_together(subject, case)
        context = held[0][:images]
        targets = torch.zeros(images, dtype=torch.int64, device=prior.device)
        trajectories = _trajectories(subject, learning, context)
        domain = token_domain(subject.classifier, "uniform") if learning.domain_weight else None
        found = context_gradient(
            subject.classifier,
            partial(trajectories.images, 0),
            context,
            targets,
            learning,
            domain,
            case.part,
            1.0,
        )
        return held, found


def _trajectories(subject: Subject, learning: TokenLearning, context: Context) -> Trajectories:
    """Images that wait at the step of a gradient, which is a schedule's first here, so that none is sampled."""
    steps = 1 if learning.gradient == "last" else 2
    keys = [ImageKey(0, number) for number in range(len(context))]
    sampling = Sampling(steps=steps, cfg=subject.cfg)
    found = Trajectories(
        subject.prior, keys, context, sampling, 0, lambda _: Unguided(), at=[0]
    )
    if not found.complete:
        found.kept_null[0] = torch.empty_like(found.kept[0])  # left over from sampling
    return found


def rows(subject: Subject, case: Case) -> object:
    """The gradient that goes on from the prompts' context to the tokens' rows, no two images of one prompt."""
    prior, held = subject.prior, _context(subject, case.images)
    table = _table(subject)
    with attached(prior, table) as speaking:
        prompts = [f"a {table.names[0]}"] * case.part
        by_context = torch.empty_like(held[: case.part].packed())
        return held, rows_gradient(speaking, prompts, by_context, table.rows, 1.0)


def _table(subject: Subject) -> TokenTable:
    """A table of one token without values."""
    widths, classifier = encoder_widths(subject.prior), subject.classifier
    width = sum(widths.values())
    return TokenTable(
        rows=torch.empty(1, width, device=subject.prior.device).requires_grad_(),
        encoders=widths,
        classes=(0,),
        labels=classifier.labels[:1],
        names=placeholders(classifier.labels[:1]),
        prior=subject.prior.fingerprint,
        classifier=classifier.fingerprint,
    )


@contextmanager
def checkpointed(networks: Iterable[Any]) -> Iterator[None]:
    """Inside the block, backward through these networks computes activations anew."""
    networks = list(networks)
    try:
        for network in networks:
            network.enable_gradient_checkpointing()
        yield
    finally:
        for network in networks:
            network.disable_gradient_checkpointing()


PHASES: dict[str, Callable[[Subject, Case], object]] = {
    "text": text,
    "sampling": sampling,
    "guidance": guidance,
    "decode": decode,
    "cat": cat,
    "rows": rows,
}
