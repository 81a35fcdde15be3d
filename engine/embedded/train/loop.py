"""The training loop that every embedded model shares: seeded, resumable, averaged.

A step is a pure function of (weights, seed, step number), so a run that is cut and resumed ends at the same weights as
an undisturbed one. Learning rate: linear warm-up, constant, then linear to zero over the last quarter of the steps; a
run may be resumed with another number of steps as long as its cool-down has not begun.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from engine.errors import ConfigError
from engine.files import whole_file

COOLDOWN = 0.25


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What one model's training depends on, besides its data."""

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 200
    weight_decay: float = 0.01
    averaging: float = 0.999
    seed: int = 0
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ConfigError(
                f"training asks for {self.steps} steps of {self.batch} samples, expected at least 1 of each: "
                "give --steps and --batch as positive numbers."
            )


def rate_at(step: int, recipe: Recipe) -> float:
    """The learning rate of one step."""
    warm = min(1.0, (step + 1) / max(1, recipe.warmup))
    cool = min(1.0, (recipe.steps - step) / max(1.0, COOLDOWN * recipe.steps))
    return recipe.learning_rate * warm * cool


def train(
    model: nn.Module,
    loss: Callable[[Generator, float], Tensor],
    recipe: Recipe,
    folder: Path,
    device: str = "cpu",
) -> None:
    """Minimise `loss(rng, progress)` over the model's parameters; the model ends with its averaged weights.

    `progress` is the share of the steps that is done, in [0, 1).
    `folder` receives `state.pt` (resumed from if present) and `log.jsonl`, one line for each hundred steps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "state.pt"
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        betas=(0.9, 0.99),
    )
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    start, running = 0, None
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location=device)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        average, start, running = saved["average"], saved["step"], saved["loss"]

    began, first = time.monotonic(), start
    for step in range(start, recipe.steps):
        rng = Generator().manual_seed(recipe.seed * 1_000_003 + step)
        torch.manual_seed(recipe.seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, recipe)
        value = loss(rng, step / recipe.steps)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        _blend(average, model, min(recipe.averaging, (1 + step) / (10 + step)))
        running = value.item() if running is None else 0.99 * running + 0.01 * value.item()
        done = step + 1
        if done % 100 == 0 or done == recipe.steps:
            rate = (done - first) * recipe.batch / (time.monotonic() - began)
            line = {"step": done, "loss": round(running, 5), "samples_per_s": round(rate, 1)}
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
        if done % recipe.checkpoint_every == 0 or done == recipe.steps:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average,
            }
            with whole_file(checkpoint) as file:
                torch.save({**state, "step": done, "loss": running}, file)
    model.load_state_dict(average)
    model.eval()


@torch.no_grad()
def _blend(average: dict[str, Tensor], model: nn.Module, keep: float) -> None:
    """Move the averaged weights towards the model's; what is not floating point is copied."""
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - keep)
        else:
            average[name].copy_(value)
