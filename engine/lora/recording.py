"""Record guided sampling: the latents of each step, and the clean latents that the step moves towards."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import ConfigError
from engine.events import Events
from engine.guidance.move import Guidance
from engine.memory.apply import applied
from engine.methods.drawing import Drawing
from engine.methods.reporting import reporting
from engine.priors import Denoise, Step
from engine.settings import Alignment
from engine.types import ImageKey, Prediction

TRAJECTORIES = "guided trajectories"
"""The name of the task in progress reports."""


@dataclass(frozen=True, eq=False)
class Trajectories:
    """The trajectories of a group of N images over S steps.

    latents: (S, N, ...), the denoiser's input. clean: (S, N, ...), the clean latents that each step moves towards,
    after CFG and guidance. Both are float16.
    """

    latents: Tensor
    clean: Tensor

    def to_tensors(self) -> dict[str, Tensor]:
        return {"latents": self.latents, "clean": self.clean}


class _Recorder(Guidance):
    """Guidance that records the latents at the start of each step and the clean latents it moves towards."""

    def __init__(self, guidance: Guidance) -> None:
        super().__init__(guidance.descend, guidance.alignment, guidance.scale)
        self.latents: list[Tensor] = []
        self.clean: list[Tensor] = []

    def before(self, denoise: Denoise) -> Denoise:
        def kept(z: Tensor, step: Step) -> Prediction:
            self.latents.append(z.half().cpu())
            return denoise(z, step)

        return kept

    def move(self, clean: Tensor, step: Step) -> Tensor:
        moved = super().move(clean, step)
        self.clean.append(moved.half().cpu())
        return moved


def check_target(alignment: Alignment | None) -> None:
    """Raise ConfigError if guidance moves the denoiser's input: then no clean latents record its effect."""
    if alignment is not None and alignment.target != "clean":
        raise ConfigError(
            f"the alignment's target is {alignment.target!r}, expected 'clean' for an adapter: it learns the clean "
            "latents that guidance goes towards. Set the target to 'clean'."
        )


@torch.no_grad()
def recorded(drawing: Drawing, keys: Sequence[ImageKey], events: Events) -> Trajectories:
    """Sample one group as `generate` does, without decoding its images."""
    recorder = _Recorder(drawing.guidance(keys))
    watch = reporting(events, TRAJECTORIES, recorder)
    drawing.micro_batches.events = events
    with applied(drawing.plan, drawing.prior) as phase:
        drawing.latents(keys, recorder, watch, phase)
    recorder.check()
    return Trajectories(torch.stack(recorder.latents), torch.stack(recorder.clean))
