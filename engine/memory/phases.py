"""The phases of a run, each alone: the functions that a run calls, on 'meta' to be counted, on a device to be measured.

Their inputs hold no values. Each works on one part of `part` images out of `images`, and holds beside it what a run
holds of all of them.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from engine.classifiers.base import Classifier
from engine.guidance.decoder import GuidanceDecoder, decoder_of
from engine.guidance.domain import judged
from engine.guidance.gradient import loss_scale
from engine.guidance.objective import Objective
from engine.memory.count import counting
from engine.priors import Prior
from engine.priors.vae import decoding_in_parts
from engine.sampling.loop import ddim_step
from engine.settings import Alignment, TokenLearning


@dataclass(frozen=True, eq=False, kw_only=True)
class Subject:
    """What is counted: a prior and a classifier, usually on 'meta', and the settings that shape a run.

    learning: of tokens; None for the way that takes most, the published one.
    """

    prior: Prior
    classifier: Classifier
    alignment: Alignment | None
    cfg: float
    learning: TokenLearning | None = None


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
    """What one part of a phase takes beside the weights, and how many parts there are."""

    peak_bytes: int
    flops: int
    operators: int
    parts: int


def run_case(subject: Subject, case: Case) -> object:
    """Run a case; what it holds at its end is returned."""
    return PHASES[case.phase](subject, case)


def count_case(subject: Subject, case: Case) -> Counted:
    """Run a case and count it."""
    if case.phase == "guidance" and not _objective(subject, _decoder(subject, case)).is_prepared:
        run_case(subject, Case(case.phase, 1, 1))
    with counting() as count:
        run_case(subject, case)
    return Counted(count.peak, count.flops, count.operators, -(-case.images // case.part))


def _latents(subject: Subject, images: int) -> Tensor:
    return torch.empty(images, *subject.prior.latent_shape, device=subject.prior.device)


def _contexts(subject: Subject, images: int) -> tuple[Tensor, Tensor]:
    """Of the prompts, (images, L, D), and of the null prompt, (1, L, D)."""
    config = subject.prior.text_encoder.config
    shape = (config.max_position_embeddings, config.hidden_size)
    dtype = subject.prior.dtype
    return torch.empty(images, *shape, dtype=dtype, device=subject.prior.device), torch.empty(
        1, *shape, dtype=dtype, device=subject.prior.device
    )


def text(subject: Subject, case: Case) -> object:
    """The prompts' contexts, no two images of one prompt."""
    with torch.no_grad():
        held = _contexts(subject, case.images)
        part = subject.prior.encode_prompts(["a"] * case.part)
    return held, part


def sampling(subject: Subject, case: Case) -> object:
    """One DDIM step with classifier-free guidance."""
    with torch.no_grad():
        z, (context, null) = _latents(subject, case.images), _contexts(subject, case.images)
        held = [torch.empty_like(z) for _ in range(3)]  # what parts predicted, and the next latents
        step = subject.prior.schedule(2)[0]
        denoise = subject.prior.denoiser(context[: case.part], null, subject.cfg)
        return held, ddim_step(denoise(z[: case.part], step), step)


def guidance(subject: Subject, case: Case) -> object:
    """The loss of a part of the images and its gradient; the pass for moments first where they are shared."""
    decode = _decoder(subject, case)
    objective = _objective(subject, decode)
    z, held = _latents(subject, case.images), _contexts(subject, case.images)
    classes = torch.zeros(case.part, dtype=torch.int64, device=subject.prior.device)
    prediction = [torch.empty_like(z) for _ in range(3)]
    scale = loss_scale(decode.vae.dtype, subject.classifier.dtype)
    if not objective.per_image and case.part < case.images:
        with torch.no_grad():
            objective.value(z[: case.part], classes)
    return held, prediction, objective.value_and_grad(z[: case.part], classes, scale=scale)


def _decoder(subject: Subject, case: Case) -> GuidanceDecoder:
    """What guidance sees the latents of a case through."""
    assert subject.alignment is not None
    preprocess = subject.classifier.preprocess
    return decoder_of(subject.alignment, subject.prior, preprocess, case.checkpoint)


def _objective(subject: Subject, decode: GuidanceDecoder) -> Objective:
    """What guidance descends."""
    assert subject.alignment is not None
    # Weights of layers are values, which a skeleton lacks, and change no shape.
    return Objective(subject.classifier, replace(subject.alignment, layers="uniform"), decode)


def decode(subject: Subject, case: Case) -> object:
    """The final images, and what the classifier says of them."""
    with torch.no_grad():
        z, px = _latents(subject, case.images), subject.prior.image_px
        held = torch.empty(case.images, 3, px, px, device=subject.prior.device)
        with decoding_in_parts(subject.prior.vae, tile=case.tile):
            images = subject.prior.decode(z[: case.part])
        return held, images, judged(subject.classifier, images)


def cat(subject: Subject, case: Case) -> object:
    """Token learning's step with its graph, from the prompts' context through UNet, VAE and classifier, and back.

    The published last step runs both branches of CFG with a graph, an early one the conditional branch alone.
    """
    prior, learning = subject.prior, subject.learning
    networks = (prior.unet, prior.vae)
    cfg = subject.cfg if learning is None or learning.gradient == "last" else 1.0
    with _checkpointed(networks if case.checkpoint else ()):
        step = prior.schedule(2)[0]
        (context, null), z = _contexts(subject, case.images), _latents(subject, case.images)
        leaf = context[: case.part].requires_grad_()
        prediction = prior.denoiser(leaf, null, cfg)(z[: case.part], step)
        logits = subject.classifier.logits(prior.decode(ddim_step(prediction, step)))
        loss = cross_entropy(
            logits, torch.zeros(case.part, dtype=torch.int64, device=subject.prior.device)
        )
        return torch.autograd.grad(loss, leaf)


def rows(subject: Subject, case: Case) -> object:
    """The gradient that goes on from the prompts' context to the tokens' rows, no two images of one prompt."""
    found = _EmbeddedRows()
    handle = subject.prior.text_encoder.get_input_embeddings().register_forward_hook(found)
    try:
        held = _contexts(subject, case.images)
        context = subject.prior.encode_prompts(["a"] * case.part)
        return held, torch.autograd.grad(context, found.leaf, torch.empty_like(context))
    finally:
        handle.remove()


@contextmanager
def _checkpointed(networks: Iterable[Any]) -> Iterator[None]:
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
