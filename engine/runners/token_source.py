"""Loaded models bound to the loop that learns tokens, each phase of it in as many parts as memory asks for."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from engine.events import SILENT, Events
from engine.guidance.gradient import loss_scale
from engine.memory.apply import InPhase
from engine.memory.micro_batch import denoise_in_parts
from engine.methods.drawing import Drawing
from engine.methods.reporting import reporting
from engine.priors import Context, Prior
from engine.prompts import class_prompt
from engine.settings import TokenLearning
from engine.tokens.augment import random_views
from engine.tokens.gradient import context_gradient, rows_gradient, shown_of, token_domain
from engine.tokens.source import ContextGradient
from engine.tokens.table import placeholders
from engine.tokens.trajectories import Trajectories, gradient_steps
from engine.types import ImageKey, image_rng

LEARNING_IMAGES = "images that teach tokens"
"""The task whose steps are reported."""


class TokenSource:
    """What `engine.tokens.source.ImageSource` asks for. prior: speaks the tokens that are learned."""

    def __init__(
        self,
        drawing: Drawing,
        prior: Prior,
        learning: TokenLearning,
        phase: InPhase,
        events: Events = SILENT,
    ) -> None:
        self.drawing, self.prior, self.learning, self.phase = drawing, prior, learning, phase
        self.on_step = reporting(events, LEARNING_IMAGES)
        self.names = placeholders(drawing.classifier.labels)
        self.domain = token_domain(drawing.classifier) if learning.domain_weight else None
        self.scale = loss_scale(prior.dtype, drawing.classifier.dtype)
        self.staged = drawing.plan is not None and "cat" in drawing.plan.staged

    @torch.no_grad()
    def encode(self, classes: Sequence[int], with_tokens: bool) -> Context:
        with self.phase("text"):
            return self.drawing.encoded(self._prompts(classes, with_tokens), self.prior)

    def to_rows(
        self, classes: Sequence[int], by_context: Tensor, rows: Tensor, scale: float
    ) -> tuple[Tensor, float]:
        def part(numbers: Sequence[int], gradients: Tensor) -> tuple[Tensor, float]:
            prompts = self._prompts(numbers, True)
            return rows_gradient(self.prior, prompts, gradients, rows, scale)

        with torch.enable_grad(), self.phase("rows"):
            grads, scales = zip(
                *self.drawing.micro_batches.split("rows", part, classes, by_context), strict=True
            )
        return torch.stack(grads).sum(0), min(scales)

    def draw(self, keys: Sequence[ImageKey], context: Context) -> "DrawnImages":
        drawing, learning = self.drawing, self.learning
        rng = image_rng(drawing.seed, keys[0])
        at = gradient_steps(
            learning.gradient, drawing.sampling.steps, learning.updates_per_trajectory, rng
        )
        with self.phase("sampling"):
            trajectories = Trajectories(
                self.prior,
                keys,
                context,
                drawing.sampling,
                drawing.seed,
                drawing.guidance,
                at,
                self.on_step,
                partial(denoise_in_parts, self.prior, parts=drawing.micro_batches),
                through=learning.gradient == "early",
            )
        return DrawnImages(self, trajectories, rng)

    def _prompts(self, classes: Sequence[int], with_tokens: bool) -> list[str]:
        labels, template = self.drawing.classifier.labels, self.drawing.sampling.prompt
        tokens = self.names if with_tokens else [""] * len(labels)
        instead = self.learning.place == "instead"
        return [
            class_prompt(labels[number], tokens[number], template, instead=instead)
            for number in classes
        ]


class DrawnImages:
    """What `engine.tokens.source.Drawn` asks for. rng: of the views that the classifier is shown."""

    def __init__(
        self, source: TokenSource, trajectories: Trajectories, rng: torch.Generator
    ) -> None:
        self.source, self.trajectories, self.rng = source, trajectories, rng

    @property
    def denoiser_forward(self) -> Tensor:
        return self.trajectories.denoiser_forward

    @property
    def denoiser_backward(self) -> Tensor:
        return self.trajectories.denoiser_backward

    @property
    def complete(self) -> bool:
        return self.trajectories.complete

    def gradient(
        self, update: int, context: Context, targets: Tensor, learning: TokenLearning, scale: float
    ) -> ContextGradient:
        source, classifier = self.source, self.source.drawing.classifier
        targets = targets.to(classifier.device)
        views = random_views(len(context), self.rng) if learning.augment else None
        with source.phase("sampling"):
            self.trajectories.prepare(update)

        made = shown_of(self.trajectories, update, views)

        def in_parts(size: int) -> ContextGradient:
            return context_gradient(
                classifier,
                made,
                context,
                targets,
                learning,
                source.domain,
                size,
                scale,
                source.staged,
            )

        with source.phase("cat"):
            return source.drawing.micro_batches.attempt("cat", len(context), in_parts)

    @torch.no_grad()
    def finished(self, rows: Sequence[int]) -> Tensor:
        source = self.source
        with source.phase("sampling"):
            z = self.trajectories.finished(rows)

        def logits_of(latents: Tensor) -> Tensor:
            return source.drawing.classifier.logits(source.prior.decode(latents))

        with source.phase("decode"):
            return torch.cat(source.drawing.micro_batches.split("decode", logits_of, z))
