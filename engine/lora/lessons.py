"""What an adapter learns from: the steps of guided trajectories, or what the classifier says of images.

    guidance:  min over phi  E | x0_phi(z, prompt) - clean |^2 / uncertainty^2       one pass of the denoiser, CFG 1
    class:     min over phi  E cross_entropy(f(decode(x0_phi(z, prompt))), c)        with CFG, z at an early step

The first error is in units of noise / signal, the unit of guidance's moves, in which the moves of all steps have the
same length; for a network that predicts noise, it equals the error of the noise. Guidance depends on all images that
are sampled together, but the adapter sees one image alone, so it learns the average effect of guidance. The second is
the loss of class alignment tokens (`engine.tokens`); each epoch samples new images with the adapter as it is by then.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from engine.events import SILENT, Events
from engine.memory.micro_batch import MicroBatches, denoise_in_parts
from engine.methods.drawing import Drawing
from engine.methods.reporting import reporting
from engine.priors import Context, Prior, Step
from engine.tokens.augment import random_views, shown
from engine.tokens.state import learning_key
from engine.tokens.trajectories import Trajectories, gradient_steps
from engine.types import ImageKey, image_rng

IMAGES = "images that teach an adapter"
"""The task whose steps are reported."""

PartLoss = Callable[[slice], Tensor]
"""Maps a slice of an update's images to the sum of their errors, with a graph."""


class Lessons(Protocol):
    """What `engine.lora.training.Learner` learns from. parts: how many images hold a graph at once."""

    @property
    def prior(self) -> Prior: ...

    @property
    def parts(self) -> MicroBatches: ...

    def order(self, batch: int, epoch: int) -> list[Any]:
        """The updates of an epoch, of at most `batch` images each. Epochs count from 0; -1 is for measuring."""
        ...

    def losses(self, update: Any) -> tuple[int, PartLoss]:
        """The number of images of an update, and their errors."""
        ...


@dataclass(frozen=True, eq=False)
class GuidanceLessons:
    """Every step of every guided image.

    context: the context of all classes' prompts, without a negative one. groups: for each group of images, their rows
    in `context`. trajectories: (group, step) -> the latents of the group's images, and their clean latents.
    """

    prior: Prior
    schedule: Sequence[Step]
    context: Context
    groups: Sequence[Sequence[int]]
    trajectories: Callable[[int, int], tuple[Tensor, Tensor]]
    seed: int
    parts: MicroBatches = field(default_factory=MicroBatches)

    def order(self, batch: int, epoch: int) -> list[tuple[int, int, Tensor]]:
        """Group, step and rows of each update, shuffled."""
        rng = torch.Generator().manual_seed(self.seed + 1 + epoch)
        found = [
            (group, step, rows)
            for group, images in enumerate(self.groups)
            for step in range(len(self.schedule))
            for rows in torch.randperm(len(images), generator=rng).split(batch)
        ]
        return [found[int(n)] for n in torch.randperm(len(found), generator=rng)]

    def losses(self, update: tuple[int, int, Tensor]) -> tuple[int, PartLoss]:
        group, step, rows = update
        at = self.schedule[step]
        latents, clean = (kept[rows] for kept in self.trajectories(group, step))
        prompts = [self.groups[group][row] for row in rows.tolist()]

        def summed(part: slice) -> Tensor:
            z, wanted = (value[part].to(self.prior.device).float() for value in (latents, clean))
            context = self.context[prompts[part]].to(self.prior.device)
            found = self.prior.denoiser(context, 1.0)(z, at).clean
            return ((found.float() - wanted) / at.uncertainty).square().flatten(1).mean(1).sum()

        return len(rows), summed


@dataclass(frozen=True, eq=False)
class ClassLessons:
    """Images of each class, as the classifier sees them.

    context: the context of the drawing's prompts, with a negative one unless CFG is 1.
    """

    drawing: Drawing
    context: Context
    parts: MicroBatches = field(default_factory=MicroBatches)
    events: Events = SILENT

    @property
    def prior(self) -> Prior:
        return self.drawing.prior

    def order(self, batch: int, epoch: int) -> list[list[ImageKey]]:
        """The images of each update, with the classes as balanced as possible."""
        size = self.drawing.request.images_per_class
        keys = [
            learning_key(number, epoch + 1, image, size)
            for image in range(size)
            for number in self.drawing.classes
        ]
        return [keys[start : start + batch] for start in range(0, len(keys), batch)]

    def losses(self, update: Sequence[ImageKey]) -> tuple[int, PartLoss]:
        drawing, classifier = self.drawing, self.drawing.classifier
        rows = [drawing.classes.index(key.class_index) for key in update]
        context = self.context[rows].to(self.prior.device)
        rng = image_rng(drawing.seed, update[0])
        (at,) = gradient_steps("drawn", drawing.sampling.steps, 1, rng)
        sampled = Trajectories(
            self.prior,
            update,
            context,
            drawing.sampling,
            drawing.seed,
            drawing.guidance,
            [at],
            reporting(self.events, IMAGES),
            partial(denoise_in_parts, self.prior, parts=drawing.micro_batches),
        )
        z, step = sampled.seen(at), sampled.schedule[at]
        views = random_views(len(update), rng)
        targets = torch.tensor([key.class_index for key in update], device=classifier.device)
        cfg = drawing.sampling.cfg_at(at, len(sampled.schedule))

        def summed(part: slice) -> Tensor:
            clean = self.prior.denoiser(context[part], cfg)(z[part], step).clean
            logits = classifier.logits(shown(self.prior.decode(clean), views[part]))
            return cross_entropy(logits.float(), targets[part], reduction="sum")

        return len(update), summed
