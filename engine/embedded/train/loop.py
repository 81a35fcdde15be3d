"""The training loop that every embedded model shares: seeded, resumable, averaged, on a CPU or a GPU.

A step is a pure function of (weights, seed, step number) on one kind of machine, so a run that is cut and resumed there
ends at the same weights as an undisturbed one; a checkpoint is written only where all processes have the same weights.
Learning rate: linear warm-up, constant, then linear to zero over the last quarter of the run; a run may be resumed with
another number of steps as long as its cool-down has not begun.

With a budget of seconds the clock says how far a run is: its rate cools down in time, and it always ends with weights.
Such a run is seeded, but how many steps it takes depends on the machine.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Generator, Tensor, nn

from engine.embedded.train.machine import CPU, Machine
from engine.errors import ConfigError
from engine.files import whole_file

COOLDOWN = 0.25
STATE = "state.pt"
"""The checkpoint in a stage's folder."""
LOG_EVERY = 100
"""Steps between two lines of a log."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What one model's training depends on, besides its data.

    Attributes:
        twice: domains of which the prior is shown twice as many images as of the others.
        checkpoint_every: in seconds.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 200
    weight_decay: float = 0.01
    averaging: float = 0.999
    seed: int = 0
    twice: tuple[str, ...] = ()
    checkpoint_every: float = 120.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ConfigError(
                f"training asks for {self.steps} steps of {self.batch} samples, expected at least 1 of each: "
                "give --steps and --batch as positive numbers."
            )


class Kept(Protocol):
    """What a checkpoint keeps besides the model, such as a critic and its optimizer."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> object: ...


@dataclass
class Clock:
    """How far a run is: by its steps, or by the time since it was started or resumed, whichever is further."""

    recipe: Recipe
    machine: Machine
    began: float = field(default_factory=lambda: time.monotonic())

    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def progress(self, step: int) -> float:
        """The share that is done before `step`, from 0; 1 or more at the end."""
        limit = self.machine.seconds
        return max(step / self.recipe.steps, self.elapsed() / limit if limit else 0.0)


def rate_at(step: int, progress: float, recipe: Recipe) -> float:
    """The learning rate of one step, counted from where the optimizer began."""
    warm = min(1.0, (step + 1) / max(1, recipe.warmup))
    return recipe.learning_rate * warm * min(1.0, (1 - progress) / COOLDOWN)


def train(
    model: nn.Module,
    loss: Callable[[Generator, float], Tensor],
    recipe: Recipe,
    folder: Path,
    machine: Machine = CPU,
    kept: Mapping[str, Kept] | None = None,
) -> None:
    """Minimise `loss(rng, progress)` over the model's parameters that want a gradient; it ends with averaged weights.

    `progress` is the share of the run that is done, in [0, 1); `rng` draws on the machine's device.
    `folder` receives `state.pt` (resumed from if present) and `log.jsonl`, one line for each hundred steps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    machine.place(model).train()
    optimizer = torch.optim.AdamW(
        [value for value in model.parameters() if value.requires_grad],
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        betas=(0.9, 0.99),
        fused=True,
    )
    run = _Run(model, optimizer, dict(kept or {}), folder, first=machine.rank == 0)
    step = first = run.resume(machine.device)
    clock = Clock(recipe, machine)
    written = 0.0
    while (progress := clock.progress(step)) < 1:
        seed = (recipe.seed * 1_000_003 + step) * machine.processes + machine.rank
        rng = Generator(machine.device).manual_seed(seed)
        torch.manual_seed(seed)
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step - run.fresh, progress, recipe)
        with machine.autocast():
            value = loss(rng, progress)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        run.note(value, min(recipe.averaging, (1 + step) / (10 + step)))
        step += 1
        if step % LOG_EVERY == 0:
            run.log(step, recipe.batch * (step - first) / clock.elapsed())
        if step % machine.local_steps:
            continue
        machine.average(model, optimizer)
        if clock.elapsed() - written > recipe.checkpoint_every:
            run.write(step, recipe, machine)
            written = clock.elapsed()
    if step > first:
        machine.average(model, optimizer)
        run.log(step, recipe.batch * (step - first) / clock.elapsed())
        run.write(step, recipe, machine)
    machine.follow_first(run.average.values())
    model.load_state_dict(run.average)
    model.eval()


def read_checkpoint(file: Path, device: str = "cpu") -> dict[str, Any]:
    """A checkpoint, also one whose averaged weights `shipping.shed` keeps in rows of 8 bits."""
    saved: dict[str, Any] = torch.load(file, weights_only=True, map_location=device)
    saved["average"] = {
        name: value[0] * value[1] if isinstance(value, tuple) else value
        for name, value in saved["average"].items()
    }
    return saved


def in_rows(value: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix or kernel as whole numbers from -127 to 127 and the factor of each row, (rows, 1, ...)."""
    rows = value.float()
    factor = rows.abs().amax(tuple(range(1, value.dim())), keepdim=True).clamp(min=1e-12) / 127
    return (rows / factor).round().to(torch.int8), factor


class _Run:
    """The state of a training: model, its average, optimizer, what else is kept, and the running loss."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        kept: dict[str, Kept],
        folder: Path,
        first: bool = True,
    ) -> None:
        self.model, self.optimizer, self.kept, self.folder = model, optimizer, kept, folder
        self.first = first  # of the processes: it alone writes
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.loss: Tensor | None = None
        self.logged = 0
        self.fresh = 0  # the step at which the optimizer began

    def resume(self, device: str) -> int:
        """Read the checkpoint, if there is one; the number of the next step.

        One of `shipping.shed` goes on with a new optimizer.
        """
        checkpoint = self.folder / STATE
        if not checkpoint.exists():
            return 0
        saved = read_checkpoint(checkpoint, device)
        for name, value in self.average.items():
            value.copy_(saved["average"][name])
        self.model.load_state_dict(saved.get("model", self.average))
        if "optimizer" in saved:
            self.optimizer.load_state_dict(saved["optimizer"])
        for name, state in saved.get("kept", {}).items():
            self.kept[name].load_state_dict(state)
        self.loss = torch.as_tensor(saved["loss"], device=device)
        self.logged = saved["step"]
        self.fresh = saved.get("fresh", 0 if "optimizer" in saved else saved["step"])
        return int(saved["step"])

    @torch.no_grad()
    def note(self, value: Tensor, keep: float) -> None:
        """Move the averages towards the model and this step's loss; what is not floating point is copied."""
        now = self.model.state_dict()
        moving = [name for name, value in now.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self.average[name] for name in moving], [now[name] for name in moving], 1 - keep
        )
        for name in now.keys() - set(moving):
            self.average[name].copy_(now[name])
        value = value.detach().float()
        self.loss = value if self.loss is None else self.loss.lerp(value, 0.01)

    def log(self, step: int, rate: float) -> None:
        """One line of the log, if this step has none yet."""
        if self.logged == step or not self.first:
            return
        assert self.loss is not None, "a step was taken before a line is logged"
        line = {"step": step, "loss": round(self.loss.item(), 5), "samples_per_s": round(rate, 1)}
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        print(self.folder.name, json.dumps(line), flush=True)
        self.logged = step

    def write(self, step: int, recipe: Recipe, machine: Machine) -> None:
        """The checkpoint, whole or not at all."""
        if not self.first:
            return
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "kept": {name: part.state_dict() for name, part in self.kept.items()},
            "average": self.average,
            "step": step,
            "fresh": self.fresh,
            "loss": float(self.loss) if self.loss is not None else 0.0,
            "recipe": asdict(recipe),
            "processes": machine.processes,
            "local_steps": machine.local_steps,
            "bfloat16": machine.bfloat16,
        }
        with whole_file(self.folder / STATE) as file:
            torch.save(state, file)
