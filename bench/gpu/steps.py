"""Steps and whole runs of the engine, timed as its own plan carries them out."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch

from engine import generate
from engine.classifiers import Classifier
from engine.guidance.move import Guidance
from engine.memory.apply import applied
from engine.memory.micro_batch import denoise_in_parts
from engine.methods.drawing import Drawing
from engine.priors import Prior
from engine.sampling.loop import sample
from engine.settings import Alignment, Sampling
from gpu.card import Card

AT_STEP, STEPS = 10, 30
"""The step that is timed, one that guidance acts on."""
METHODS: dict[str, dict[str, Any]] = {
    "plain": {"method": "plain"},
    "ours": {"alignment": Alignment(), "sampling": Sampling()},
    "paper": {"alignment": Alignment.paper(), "sampling": Sampling.paper()},
    "ours, full VAE": {"alignment": Alignment(decoder="full"), "sampling": Sampling()},
}

LAUNCHING = {"graph": {"graphs": True}, "eager": {"graphs": False}}
"""Kernels replayed from CUDA graphs, where the plan has room for them, and launched one by one."""
GROUPS = 2
"""Of a timed run: CUDA graphs are recorded in the first one."""


@contextmanager
def unchecked() -> Iterator[None]:
    """Inside the block a run goes on however many guided steps it skips.

    With random weights a float16 gradient may overflow, and what was skipped took its time all the same.
    """
    with patch.object(Guidance, "check", lambda self: None):
        yield


def timed_step(card: Card, drawing: Drawing, rounds: int = 5) -> dict[str, Any]:
    """Seconds of a plain and of a guided step of a drawing's first group, and what the guided one takes at most."""
    prior, (keys, *_) = drawing.prior, drawing.groups()
    step, guidance = prior.schedule(STEPS)[AT_STEP], drawing.guidance(keys)
    assert guidance.acts_on(step)
    noise = torch.Generator().manual_seed(0)
    z = torch.randn(len(keys), *prior.latent_shape(1)[1:], generator=noise).to(prior.device)
    with torch.no_grad(), applied(drawing.plan, prior) as phase:
        with phase("text"):
            context = prior.encode(["a photo"], "")[[0] * len(keys)]
        with phase("sampling"):
            denoise = denoise_in_parts(prior, context, drawing.sampling.cfg, drawing.micro_batches)
            plain = card.seconds(lambda: sample(z, denoise, [step]), rounds)
            seen = guidance.before(denoise)
            guided = card.seconds(lambda: sample(z, seen, [step], guidance.move), rounds)
            with card.peak() as found:
                sample(z, seen, [step], guidance.move)
    return {
        "plain_s": plain,
        "guided_s": guided,
        "ratio": round(guided / plain, 4),
        "skipped": sum(guidance.skipped),
        "reserved_bytes": found.peak_bytes,
    }


def images_per_minute(
    card: Card, classifier: Classifier, prior: Prior, batch: int, steps: int, **method: Any
) -> dict[str, Any]:
    """Images a minute of `generate` in GROUPS groups of `batch`, from the prompts to the images.

    It is timed once: what a first call sets up is set up by the steps that were timed before.
    """
    sampling = replace(method.pop("sampling", Sampling()), steps=steps, batch=batch)
    images, made = GROUPS * batch, []

    def run() -> None:
        made[:] = generate(
            classifier, prior, classifier.labels[:1], images, sampling=sampling, **method
        )

    with unchecked():
        seconds = card.seconds(run, rounds=1, warm_up=0)
    return {
        "seconds": seconds,
        "images_per_minute": round(60 * images / seconds, 2),
        "skipped": sum(image.skipped for image in made),
        "finite": all(bool(image.image.isfinite().all()) for image in made),
    }
