"""Teach an adapter what guidance does: from the latents of a step to the clean latents that it went towards.

    min over phi  E | x0_phi(z, prompt) - clean |^2 / uncertainty^2        one pass of the denoiser, CFG 1

The unit is that of guidance's moves, noise / signal, in which each step's move has the same length; for a network that
predicts noise it is the error of that. Guidance is a function of the images that are sampled together, and the adapter
sees one alone, so that it learns the mean of what guidance does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import GuidanceError
from engine.guidance.gradient import loss_scale
from engine.memory.micro_batch import MicroBatches
from engine.priors import Context, Prior, Step
from engine.settings.lora import LoraLearning

PHASE = "adapter"
"""The phase whose images at once are halved where memory runs out."""
MOST_SKIPPED = 0.1
"""The share of updates that may be left out for a gradient that is not finite."""
MEASURED = 16
"""Updates' worth of images that the error is measured on."""


@dataclass(frozen=True, eq=False)
class Lessons:
    """All that is learned from.

    context: of the prompts of all classes, without a negative one. groups: for each group of images, the rows of
    `context` that are theirs. trajectories: (group, step) -> the latents of its images and the clean latents.
    """

    prior: Prior
    schedule: Sequence[Step]
    context: Context
    groups: Sequence[Sequence[int]]
    trajectories: Callable[[int, int], tuple[Tensor, Tensor]]
    parts: MicroBatches = field(default_factory=MicroBatches)

    def order(self, batch: int, rng: torch.Generator) -> list[tuple[int, int, Tensor]]:
        """Group, step and rows of each update of an epoch, shuffled."""
        found = [
            (group, step, rows)
            for group, images in enumerate(self.groups)
            for step in range(len(self.schedule))
            for rows in torch.randperm(len(images), generator=rng).split(batch)
        ]
        return [found[int(n)] for n in torch.randperm(len(found), generator=rng)]

    def error(self, group: int, step: int, rows: Tensor) -> Callable[[slice], Tensor]:
        """The sum of squared errors of a part of some images at one step, as a function of the part, with a graph."""
        at = self.schedule[step]
        latents, clean = (kept[rows] for kept in self.trajectories(group, step))
        prompts = [self.groups[group][row] for row in rows.tolist()]

        def of(part: slice) -> Tensor:
            z, wanted = (value[part].to(self.prior.device).float() for value in (latents, clean))
            context = self.context[prompts[part]].to(self.prior.device)
            found = self.prior.denoiser(context, 1.0)(z, at).clean
            return ((found.float() - wanted) / at.uncertainty).square().flatten(1).mean(1).sum()

        return of


class Learner:
    """An adapter's parameters on their way, with Adam's moments: `state` is all that a cut run needs."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        learning: LoraLearning,
        lessons: Lessons,
        seed: int,
    ) -> None:
        self.parameters, self.learning, self.lessons = dict(parameters), learning, lessons
        self.seed = seed
        self.optimizer = torch.optim.Adam(self.parameters.values(), learning.learning_rate)
        self.scale = loss_scale(lessons.prior.dtype)
        self.epoch = 0
        self.skipped = 0

    def state(self) -> dict[str, Any]:
        return {
            "parameters": {name: value.detach() for name, value in self.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
            "scale": self.scale,
            "epoch": self.epoch,
            "skipped": self.skipped,
        }

    @torch.no_grad()
    def resume(self, state: Mapping[str, Any]) -> None:
        for name, value in state["parameters"].items():
            self.parameters[name].copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scale, self.epoch, self.skipped = state["scale"], state["epoch"], state["skipped"]

    @property
    def updates_per_epoch(self) -> int:
        return len(self._order(self.seed))

    def run_epoch(self, done: Callable[[float], None]) -> None:
        """Learn from each step of each image once. done: called after each update with its error.

        Raises GuidanceError where too many gradients are not finite.
        """
        order = self._order(self.seed + 1 + self.epoch)
        total = self.learning.epochs * len(order)
        for number, update in enumerate(order, self.epoch * len(order)):
            rate = self.learning.learning_rate * (1 - number / total)
            done(self._update(update, rate))
            if self.skipped > MOST_SKIPPED * total:
                raise GuidanceError(
                    f"{self.skipped} of {total} updates of the adapter had a gradient that is not finite, "
                    f"expected at most {MOST_SKIPPED:.0%}: lower learning_rate, or load the prior in bfloat16 or "
                    "float32."
                )
        self.epoch += 1

    @torch.no_grad()
    def measured(self) -> float:
        """The mean error over some of the updates' images, the same ones for each call."""
        order = self._order(self.seed)[:MEASURED]
        return sum(self.error_of(*update) for update in order) / len(order)

    def _order(self, seed: int) -> list[tuple[int, int, Tensor]]:
        return self.lessons.order(self.learning.batch, torch.Generator().manual_seed(seed))

    def error_of(self, group: int, step: int, rows: Tensor) -> float:
        """The mean error of some images at one step; the gradient of `scale` times it too, unless gradients are off."""
        error = self.lessons.error(group, step, rows)

        def work(size: int) -> float:
            self.optimizer.zero_grad(set_to_none=True)
            total = 0.0
            for start in range(0, len(rows), size):
                value = error(slice(start, start + size)) / len(rows)
                if torch.is_grad_enabled():
                    (self.scale * value).backward()
                total += value.item()
            return total

        return self.lessons.parts.attempt(PHASE, len(rows), work)

    def _update(self, update: tuple[int, int, Tensor], rate: float) -> float:
        error = self.error_of(*update)
        found = [value.grad for value in self.parameters.values() if value.grad is not None]
        if not all(bool(grad.isfinite().all()) for grad in found):
            self.skipped += 1
            self.scale = max(self.scale / 4, 1.0)
            return error
        torch._foreach_div_(found, self.scale)
        nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return error
