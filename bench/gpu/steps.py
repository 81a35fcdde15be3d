"""Steps and whole runs of the engine, timed as its own plan carries them out."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from inspect import signature
from typing import Any
from unittest.mock import patch

import torch

from engine import generate
from engine.classifiers import Classifier
from engine.guidance.move import Guidance
from engine.memory.apply import applied
from engine.memory.micro_batch import denoise_in_parts
from engine.models import Prior
from engine.runners.job import Job
from engine.sampling.ddim import sample
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


@contextmanager
def unchecked() -> Iterator[None]:
    """Inside the block a run goes on however many guided steps it skips.

    With random weights a float16 gradient may overflow, and what was skipped took its time all the same.
    """
    with patch.object(Guidance, "check", lambda self: None):
        yield


def timed_step(card: Card, job: Job, rounds: int = 5) -> dict[str, Any]:
    """Seconds of a plain and of a guided step of a job's first group, and what the guided one takes at most."""
    prior, (keys, *_) = job.prior, job.groups()
    step, guidance = prior.schedule(STEPS)[AT_STEP], job.guidance(keys)
    assert guidance.acts_on(step)
    noise = torch.Generator().manual_seed(0)
    z = torch.randn(len(keys), *prior.latent_shape, generator=noise).to(prior.device)
    with torch.no_grad(), applied(job.plan, prior) as phase:
        with phase("text"):
            context, null = prior.encode_prompts(["a photo"]), prior.encode_prompts([""])
        context = context.expand(len(keys), -1, -1)
        with phase("sampling"):
            denoise = denoise_in_parts(prior, context, null, job.sampling.cfg, job.parts)
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
    """Images a minute of `generate`, from the prompts to the images, after a run that warms up."""
    sampling = replace(method.pop("sampling", Sampling()), steps=steps, batch=batch)
    made: list[Any] = []

    def run() -> None:
        made[:] = generate(
            classifier, prior, classifier.labels[:1], batch, sampling=sampling, **method
        )

    with unchecked():
        seconds = card.seconds(run, rounds=1, warm_up=1)
    return {
        "seconds": seconds,
        "images_per_minute": round(60 * batch / seconds, 2),
        "skipped": sum(image.skipped for image in made),
        "finite": all(bool(image.image.isfinite().all()) for image in made),
    }


def launching() -> dict[str, dict[str, bool]]:
    """The ways in which `generate` can launch its kernels: one by one, and from CUDA graphs where it has them."""
    if "graphs" not in signature(generate).parameters:
        return {"eager": {}}
    return {"eager": {"graphs": False}, "graph": {"graphs": True}}
