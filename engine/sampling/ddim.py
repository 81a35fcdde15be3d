"""Deterministic DDIM (arXiv 2010.02502, eq. 12 with sigma = 0) around two functions: a denoiser and a steer.

z_t    <- steer.before(z_t)
z_0|t, e  = denoise(z_t)
z_0|t  <- steer.between(z_0|t)
z_t-1  = sqrt(a_t-1) z_0|t + sqrt(1 - a_t-1) e
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from engine.types import Denoise, Prediction, Step

OnStep = Callable[[Step, Tensor], None]
"""Called after each step with it and the predicted clean latents (N, 4, h, w) that it went towards."""


class Steer(Protocol):
    """What may act on the latents (N, 4, h, w) of a step, before the UNet and between it and the DDIM step."""

    def before(self, z: Tensor, step: Step) -> Tensor: ...

    def between(self, clean: Tensor, step: Step) -> Tensor: ...


def ddim_step(prediction: Prediction, step: Step) -> Tensor:
    """The next latents (N, 4, h, w)."""
    return step.alpha_next**0.5 * prediction.clean + (1 - step.alpha_next) ** 0.5 * prediction.noise


def sample(
    z: Tensor,
    denoise: Denoise,
    schedule: Sequence[Step],
    steer: Steer,
    on_step: OnStep | None = None,
) -> Tensor:
    """Take latents (N, 4, h, w) through the steps of a schedule, or of a part of one."""
    for step in schedule:
        z = steer.before(z, step)
        prediction = denoise(z, step)
        clean = steer.between(prediction.clean, step)
        z = ddim_step(Prediction(clean, prediction.noise), step)
        if on_step is not None:
            on_step(step, clean)
    return z
