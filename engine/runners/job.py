"""A request for images, with its models loaded and its settings checked against each other."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.classifiers import Classifier, load_classifier
from engine.classifiers.base import class_numbers
from engine.errors import ConfigError
from engine.guidance.gradient import loss_scale
from engine.guidance.move import Guidance, Unguided, guided
from engine.guidance.objective import Objective, check_statistics
from engine.memory.apply import plan_of
from engine.memory.budget import AUTO
from engine.memory.graphs import Graphs, backend_of, graphed_descend, graphed_prior
from engine.memory.layout import lay_out
from engine.memory.micro_batch import MicroBatches
from engine.memory.plan import Plan
from engine.models import Prior, load_prior
from engine.models.decoder import GuidanceDecoder, decoder_of
from engine.prompts import class_prompt
from engine.runners.runtime import Descend, Runtime, engines
from engine.settings import AUTO_ATTENTION, Alignment, Sampling, TokenLearning
from engine.tokens.table import TokenTable, check_fit, load_tokens
from engine.types import ImageKey

SEEDS = 2**62
"""Seeds end here: what is added to one (for tuning, say) still fits the manifest's 64-bit column."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A request with its models loaded and checked against each other; without guidance it has no decoder.

    plan: how it keeps within its memory; without one, batches are whole. parts: how many images go at once now, which a
    run out of memory makes fewer. descend: what guidance descends with where it is not autograd, run as it is.
    """

    classifier: Classifier
    prior: Prior
    classes: tuple[int, ...]
    images_per_class: int
    tokens: TokenTable | None
    alignment: Alignment | None
    sampling: Sampling
    seed: int
    decoder: GuidanceDecoder | None
    plan: Plan | None = None
    parts: MicroBatches = field(default_factory=MicroBatches)
    runtime: Runtime = "torch"
    descend: Descend | None = None

    @property
    def labels(self) -> dict[int, str]:
        return {number: self.classifier.labels[number] for number in self.classes}

    @property
    def device(self) -> torch.device:
        return self.prior.device

    @property
    def joint(self) -> bool:
        """Whether the images of a group depend on each other."""
        return self.alignment is not None and self.alignment.statistics == "batch"

    def token_of(self, class_index: int) -> str:
        return self.tokens.name_of(class_index) if self.tokens is not None else ""

    def prompt_of(self, class_index: int) -> str:
        label, token = self.classifier.labels[class_index], self.token_of(class_index)
        return class_prompt(label, token, self.sampling.prompt)

    def guidance(self, keys: Sequence[ImageKey]) -> Guidance:
        """Fresh guidance for the group of these images."""
        if self.alignment is None or (decoder := self.decoder) is None:
            return Unguided()
        classes = torch.tensor([key.class_index for key in keys], device=self.classifier.device)
        return guided(
            Objective(self.classifier, self.alignment, decoder),
            self.alignment,
            classes,
            loss_scale(decoder.vae.dtype, self.classifier.dtype),
            partial(self.parts.attempt, "guidance"),
            None if self.descend is None else partial(self.descend, classes=classes),
        )

    def groups(self) -> list[list[ImageKey]]:
        """The images of the job in groups of nearly equal size, classes mixed; a function of the request alone."""
        return mixed_groups(self.classes, self.images_per_class, self.sampling.batch)

    def describe(self) -> dict[str, Any]:
        """Everything that the images depend on, as JSON values: what `run.json` keeps and continuing compares."""
        return {
            "classifier": self.classifier.describe(),
            "prior": self.prior.describe(),
            "classes": list(self.labels.values()),
            "images_per_class": self.images_per_class,
            "tokens": None if self.tokens is None else self.tokens.fingerprint,
            "alignment": None if self.alignment is None else asdict(self.alignment),
            "sampling": asdict(self.sampling),
            "seed": self.seed,
            "runtime": self.runtime,
        }


def mixed_groups(classes: Sequence[int], images_per_class: int, batch: int) -> list[list[ImageKey]]:
    """Images in groups of at most `batch` and nearly equal size, classes mixed."""
    keys = [ImageKey(number, index) for index in range(images_per_class) for number in classes]
    count = -(-len(keys) // batch)
    bounds = [len(keys) * number // count for number in range(count + 1)]
    return [keys[start:stop] for start, stop in pairwise(bounds)]


def check_counts(images_per_class: int, seed: int) -> None:
    """Raise ConfigError for a number of images or a seed that makes no sense."""
    if images_per_class < 1:
        raise ConfigError(
            f"images_per_class is {images_per_class}, expected at least 1: ask for a positive number."
        )
    if not 0 <= seed < SEEDS:
        raise ConfigError(
            f"seed is {seed}, expected a whole number from 0 to {SEEDS - 1}: give one of these."
        )


def prepare(
    classifier: str | Path | nn.Module | Classifier,
    prior: str | Path | Prior = "embedded",
    classes: Sequence[str] | None = None,
    images_per_class: int = 8,
    tokens: TokenTable | str | Path | None = None,
    alignment: Alignment | None = Alignment(),
    sampling: Sampling = Sampling(),
    seed: int = 0,
    memory: str | int | Plan | None = None,
    runtime: Runtime = "torch",
    onnx_cache: str | Path | None = None,
    learning: TokenLearning | None = None,
    attention: str = AUTO_ATTENTION,
    graphs: bool = True,
) -> Job:
    """Load what is named and check it all against each other. Takes what `generate` takes; memory: None for no plan.

    learning: what the plan must have room for as well, where tokens are learned; images_per_class is then an epoch's.
    """
    check_counts(images_per_class, seed)
    if alignment is not None and sampling.steps < 2:
        raise ConfigError(
            "sampling has 1 step and alignment is on, expected at least 2 steps: the last step is never guided, so "
            "nothing would be. Raise the steps, or pass alignment=None."
        )
    if not isinstance(classifier, Classifier):
        classifier = load_classifier(classifier)
    chosen = class_numbers(classifier, classes)
    check_statistics(classifier, alignment)
    if not isinstance(prior, Prior):
        prior = load_prior(prior, device=classifier.device)
    if isinstance(tokens, str | Path):
        tokens = load_tokens(tokens, prior, classifier)
    elif tokens is not None:
        check_fit(tokens, prior, classifier)
    prior.schedule(sampling.steps)  # refuses now more steps than the prior has noise levels
    if runtime == "onnx" and memory not in (None, AUTO):
        raise ConfigError(
            f"memory is {memory!r} with runtime 'onnx', expected 'auto': ONNX Runtime allocates by itself. Leave the "
            "budget out, or use runtime 'torch'."
        )
    if runtime == "onnx" and attention != AUTO_ATTENTION:
        raise ConfigError(
            f"attention is {attention!r} with runtime 'onnx', expected 'auto': ONNX Runtime has its own. Leave it out, "
            "or use runtime 'torch'."
        )
    if runtime == "torch" and onnx_cache is not None:
        raise ConfigError(
            f"onnx_cache is {str(onnx_cache)!r} with runtime 'torch', expected runtime 'onnx': torch exports no graph. "
            "Leave the folder out, or choose that runtime."
        )
    batch = min(sampling.batch, len(chosen) * images_per_class)
    plan = plan_of(
        memory if runtime == "torch" else None,
        prior,
        classifier,
        batch,
        alignment,
        sampling,
        learning,
        attention,
        graphs,
    )
    if plan is not None:
        lay_out(plan.channels_last, prior, classifier)
    checkpoint = plan is not None and "guidance" in plan.checkpoint
    decoder = decoder_of(alignment, prior, classifier.preprocess, checkpoint) if alignment else None
    prior, descend = engines(runtime, prior, classifier, alignment, decoder, onnx_cache)
    replayed = (
        Graphs(backend_of(prior.device))
        if graphs and plan is not None and not plan.eager_because
        else None
    )
    if replayed is not None:
        prior = graphed_prior(prior, replayed)
        if alignment is not None and decoder is not None:
            descend = graphed_descend(replayed, Objective(classifier, alignment, decoder))
    return Job(
        classifier=classifier,
        prior=prior,
        classes=chosen,
        images_per_class=images_per_class,
        tokens=tokens,
        alignment=alignment,
        sampling=sampling,
        seed=seed,
        decoder=decoder,
        plan=plan,
        parts=MicroBatches(
            plan.micro_batch if plan else None, replayed.release if replayed else lambda: False
        ),
        runtime=runtime,
        descend=descend,
    )
