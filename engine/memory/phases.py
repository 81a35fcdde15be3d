"""The phases of a run, each alone: the functions that a run calls, on 'meta' to be counted, on a device to be measured.

Their inputs hold no values. Each works on one part of `part` images out of `images`, and holds beside it what a run
holds of all of them.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from engine.guidance.assembly import guidance_of, is_prepared
from engine.guidance.decoder import GuidanceDecoder
from engine.guidance.move import Guidance
from engine.memory.count import counting
from engine.memory.subject import Subject
from engine.priors import Context
from engine.priors.vae import decoding_in_parts
from engine.sampling.finished import finished
from engine.sampling.loop import sample
from engine.settings import Alignment

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
    if case.phase == "guidance" and not is_prepared(subject.classifier, _alignment(subject)):
        run_case(subject, Case(case.phase, 1, 1))
    with counting() as count:
        run_case(subject, case)
    run = -(-_run_together(subject, case) // case.part)
    parts = -(-case.images // case.part)
    return Counted(count.peak, count.flops // run, count.operators // run, parts)


def _run_together(subject: Subject, case: Case) -> int:
    """Images of a case that are run: those of one part, or of two where the parts share their moments."""
    shared = subject.alignment is not None and subject.alignment.statistics == "batch"
    parts = 2 if case.phase == "guidance" and shared else 1
    return min(parts * case.part, case.images)


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
    """Token learning's step with its graph, from the prompts' context through UNet, VAE and classifier, and back.

    The published last step runs both branches of CFG with a graph, an early one the conditional branch alone.
    """
    prior, learning = subject.prior, subject.learning
    drawing = [part.module for part in prior.components() if part.role in ("denoiser", "decoder")]
    cfg = subject.cfg if learning is None or learning.gradient == "last" else 1.0
    with checkpointed(drawing if case.checkpoint else ()):
        context, z = _context(subject, case.images)[: case.part], _latents(subject, case.images)
        leaf = context.packed().requires_grad_()
        denoise = prior.denoiser(context.with_packed(leaf), cfg)
        last = sample(z[: case.part], denoise, prior.schedule(2)[:1])
        logits = subject.classifier.logits(prior.decode(last))
        loss = cross_entropy(
            logits, torch.zeros(case.part, dtype=torch.int64, device=subject.prior.device)
        )
        return torch.autograd.grad(loss, leaf)


def rows(subject: Subject, case: Case) -> object:
    """The gradient that goes on from the prompts' context to the tokens' rows, no two images of one prompt."""
    found = _EmbeddedRows()
    (encoder, *_) = subject.prior.text_encoders()
    handle = encoder.module.get_input_embeddings().register_forward_hook(found)
    try:
        held = _context(subject, case.images)
        context = subject.prior.encode(["a"] * case.part).packed()
        return held, torch.autograd.grad(context, found.leaf, torch.empty_like(context))
    finally:
        handle.remove()


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


class _EmbeddedRows:
    """A hook that makes the first output of an embedding the leaf that gradients reach, as a token's row is."""

    leaf: Tensor

    def __call__(self, module: object, inputs: object, output: Tensor) -> Tensor:
        if not hasattr(self, "leaf"):
            self.leaf = output.detach().requires_grad_()
            return self.leaf
        return output


PHASES: dict[str, Callable[[Subject, Case], object]] = {
    "text": text,
    "sampling": sampling,
    "guidance": guidance,
    "decode": decode,
    "cat": cat,
    "rows": rows,
}
