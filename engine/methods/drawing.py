"""Images that a prior draws, guided by a classifier or not: the part that `ddis` and `plain` share.

Images are drawn in groups. With batch statistics the images of a group share their moments, so which images are in it
is a pure function of the request, stands in each manifest row, and is the unit of resuming.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from engine.classifiers import Classifier
from engine.events import SILENT, Events
from engine.guidance.assembly import Descent, guidance_of
from engine.guidance.decoder import GuidanceDecoder
from engine.guidance.domain import judged
from engine.guidance.move import Guidance, Unguided
from engine.guidance.polish import polished, polishing
from engine.memory.apply import InPhase, applied
from engine.memory.micro_batch import MicroBatches, denoise_in_parts
from engine.memory.plan import Plan
from engine.methods.base import MixedGroups, members
from engine.methods.previews import previewing
from engine.methods.reporting import reporting
from engine.priors import Context, Prior
from engine.prompts import class_prompt
from engine.request import Request
from engine.sampling.loop import OnStep, in_interval
from engine.sampling.noise import ImageNoise
from engine.sampling.stages import drawn, encoded, finished
from engine.settings import Alignment, Sampling
from engine.settings.methods import DrawingSettings
from engine.tokens.attached import attached
from engine.tokens.table import TokenTable
from engine.types import ImageKey, Sample

IMAGES = "images"
"""The task whose steps drawing reports."""

CANARY_STEPS = 3
"""Two of them are guided: the last step never is."""


def settings_of(request: Request) -> DrawingSettings:
    """The method's settings of a request for drawn images."""
    return cast(DrawingSettings, request.method)


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawing:
    """A request for drawn images with its models loaded and checked; see `engine.methods.base.Prepared`.

    decoder: what guidance sees the latents through; None without guidance. plan: None where batches stay whole.
    micro_batches: how many images go at once now, which a run out of memory makes fewer. descend: what guidance
    descends with where that is not autograd, run as it is.
    """

    request: Request
    classifier: Classifier
    prior: Prior
    classes: tuple[int, ...]
    tokens: TokenTable | None = None
    decoder: GuidanceDecoder | None = None
    plan: Plan | None = None
    micro_batches: MicroBatches = field(default_factory=MicroBatches)
    descend: Descent | None = None

    @property
    def alignment(self) -> Alignment | None:
        return settings_of(self.request).alignment

    @property
    def sampling(self) -> Sampling:
        return settings_of(self.request).sampling

    @property
    def seed(self) -> int:
        return self.request.seed

    @property
    def labels(self) -> dict[int, str]:
        return {number: self.classifier.labels[number] for number in self.classes}

    @property
    def device(self) -> torch.device:
        return self.prior.device

    @property
    def joint(self) -> bool:
        return self.alignment is not None and self.alignment.statistics == "batch"

    def asking(self, **changes: Any) -> "Drawing":
        """The same models, asked for something else: `changes` are fields of the request."""
        return replace(self, request=replace(self.request, **changes))

    def token_of(self, class_index: int) -> str:
        """The placeholder in the prompt of a class, "" where it has none."""
        return self.tokens.name_of(class_index) if self.tokens is not None else ""

    def prompt_of(self, class_index: int) -> str:
        """The prompt of a class."""
        label, token = self.classifier.labels[class_index], self.token_of(class_index)
        instead = self.tokens is not None and self.tokens.instead
        return class_prompt(label, token, self.sampling.prompt, instead=instead)

    def guidance(self, keys: Sequence[ImageKey]) -> Guidance:
        """Fresh guidance for the group of these images."""
        if self.alignment is None or (decoder := self.decoder) is None:
            return Unguided()
        classes = torch.tensor([key.class_index for key in keys], device=self.classifier.device)
        descend = self.descend
        return guidance_of(
            self.classifier,
            self.alignment,
            decoder,
            classes,
            partial(self.micro_batches.attempt, "guidance"),
            None if descend is None else lambda z, scale: descend(z, scale, classes),
        )

    def finished(self, z: Tensor, keys: Sequence[ImageKey], phase: InPhase) -> tuple[Tensor, ...]:
        """The images of a group's latents, polished where that is asked for, and their logits and L_BN."""
        prior, classifier, parts = self.prior, self.classifier, self.micro_batches
        if self.alignment is None or not self.alignment.polish.steps:
            with phase("decode"):
                return _joined(parts.split("decode", partial(finished, prior, classifier), z))
        classes = torch.tensor([key.class_index for key in keys], device=classifier.device)
        attempt = partial(parts.attempt, "polish")
        with phase("decode"):
            images = torch.cat(parts.split("decode", prior.decode, z))
        with phase("polish"):
            images = polished(images, polishing(classifier, self.alignment, classes, attempt))
            return images, *_joined(parts.split("polish", partial(judged, classifier), images))

    def groups(self) -> MixedGroups:
        """The images of the request in groups of nearly equal size, classes mixed."""
        return MixedGroups(self.classes, self.request.images_per_class, self.sampling.batch)

    def canary(self) -> "Drawing":
        """The same in at most CANARY_STEPS steps."""
        settings: Any = settings_of(self.request)
        steps = min(settings.sampling.steps, CANARY_STEPS)
        return self.asking(
            method=replace(settings, sampling=replace(settings.sampling, steps=steps))
        )

    def identities(self) -> dict[str, Any]:
        """Name and fingerprint of classifier and prior, and the fingerprint of the tokens, as JSON values."""
        return {
            "classifier": self.classifier.describe(),
            "prior": self.prior.describe(),
            "tokens": None if self.tokens is None else self.tokens.fingerprint,
        }

    def prompts(self, keys: Sequence[ImageKey]) -> list[str]:
        """The prompts of images."""
        return [self.prompt_of(key.class_index) for key in keys]

    def encoded(self, prompts: Sequence[str], prior: Prior) -> Context:
        """The context of prompts, in as many parts as memory asks for."""
        return encoded(prior, prompts, self.sampling, partial(self.micro_batches.split, "text"))

    def context(self, keys: Sequence[ImageKey]) -> Context:
        """The context of the prompts of images, with their classes' tokens where there are any."""
        tokens = self.tokens
        with attached(self.prior, tokens) if tokens else nullcontext(self.prior) as speaking:
            return self.encoded(self.prompts(keys), speaking)

    def latents(
        self, keys: Sequence[ImageKey], guidance: Guidance, watch: OnStep, phase: InPhase
    ) -> Tensor:
        """The finished latents of one group."""
        prior, sampling = self.prior, self.sampling
        with phase("text"):
            context = self.context(keys)
        with phase("sampling"):
            noise = ImageNoise(self.seed, keys, prior.latent_shape(1)[1:], prior.device)
            denoise = in_interval(
                lambda cfg: denoise_in_parts(prior, context, cfg, self.micro_batches), sampling
            )
            return drawn(prior, denoise, noise, sampling, guidance, watch)

    def make(
        self,
        keys: Sequence[ImageKey],
        events: Events = SILENT,
        on_clean: OnStep | None = None,
        task: str = IMAGES,
    ) -> list[Sample]:
        """Draw the images of one group together.

        on_clean: called after each step with it and the clean latents that it went towards. task: whose steps are
        reported.
        """
        prior, classifier = self.prior, self.classifier
        prompts = self.prompts(keys)
        guidance = self.guidance(keys)
        shown = previewing(self, keys, events, task) if events.previews else None
        watch = reporting(events, task, guidance, on_clean, shown)
        self.micro_batches.events = events
        with torch.no_grad(), applied(self.plan, prior) as phase:
            z = self.latents(keys, guidance, watch, phase)
            images, logits, distances = self.finished(z, keys, phase)
        guidance.check()
        curves: list[tuple[float, ...]] = [()] * len(keys)
        skipped = guidance.skipped or [0] * len(keys)
        if guidance.curve:
            curves = [
                tuple(row) for row in torch.stack(guidance.curve).expand(-1, len(keys)).T.tolist()
            ]
        confidence = logits.softmax(1)
        group = members(keys) if self.joint else ""
        return [
            Sample(
                key=key,
                label=classifier.labels[key.class_index],
                seed=self.seed,
                prompt=prompts[row],
                token=self.token_of(key.class_index),
                image=images[row].float().cpu(),
                logits=logits[row].float().cpu(),
                l_bn=distances[row].item(),
                confidence=confidence[row, key.class_index].item(),
                group=group,
                curve=curves[row],
                skipped=skipped[row],
            )
            for row, key in enumerate(keys)
        ]


def _joined(parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.cat(values) for values in zip(*parts, strict=True))
