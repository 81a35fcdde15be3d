"""The loop that teaches an adapter: Adam on its parameters, with a learning rate that falls linearly to 0."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from engine.errors import GuidanceError
from engine.guidance.gradient import loss_scale
from engine.lora.lessons import Lessons
from engine.settings.lora import LoraLearning

PHASE = "adapter"
"""The phase whose number of images at once is halved if memory runs out."""
MOST_SKIPPED = 0.1
"""The share of updates that may be skipped because a gradient is not finite."""
MEASURED = 16
"""The number of updates whose images the error is measured on."""


class Learner:
    """An adapter's parameters while they learn, with Adam's moments; `state` is all that resuming needs."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        learning: LoraLearning,
        lessons: Lessons,
    ) -> None:
        self.parameters, self.learning, self.lessons = dict(parameters), learning, lessons
        self.optimizer = torch.optim.Adam(self.parameters.values(), learning.learning_rate)
        self.scale = loss_scale(lessons.prior.dtype)
        self.epoch = 0
        self.skipped = 0
        self.before = float("nan")  # the error with the prior alone, once it is measured

    def state(self) -> dict[str, Any]:
        return {
            "parameters": {name: value.detach() for name, value in self.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
            "scale": self.scale,
            "epoch": self.epoch,
            "skipped": self.skipped,
            "before": self.before,
        }

    @torch.no_grad()
    def resume(self, state: Mapping[str, Any]) -> None:
        for name, value in state["parameters"].items():
            self.parameters[name].copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scale, self.epoch, self.skipped = state["scale"], state["epoch"], state["skipped"]
        self.before = state["before"]

    @property
    def updates_per_epoch(self) -> int:
        return len(self.lessons.order(self.learning.batch, 0))

    def run_epoch(self, done: Callable[[float], None]) -> None:
        """Learn from an epoch's updates. done: called after each update with its error.

        Raises GuidanceError if too many gradients are not finite.
        """
        order = self.lessons.order(self.learning.batch, self.epoch)
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
        """The mean error of the images of some updates, the same ones on each call."""
        order = self.lessons.order(self.learning.batch, -1)[:MEASURED]
        found = [self.error_of(update) for update in order]
        return sum(error * images for error, images in found) / sum(images for _, images in found)

    def error_of(self, update: Any) -> tuple[float, int]:
        """The mean error of an update's images, and how many these are.

        Accumulates the gradient of `scale` times the error, unless gradients are off.
        """
        images, error = self.lessons.losses(update)

        def work(size: int) -> float:
            self.optimizer.zero_grad(set_to_none=True)
            total = 0.0
            for start in range(0, images, size):
                value = error(slice(start, start + size)) / images
                if torch.is_grad_enabled():
                    (self.scale * value).backward()
                total += value.item()
            return total

        return self.lessons.parts.attempt(PHASE, images, work), images

    def _update(self, update: Any, rate: float) -> float:
        error, _ = self.error_of(update)
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
