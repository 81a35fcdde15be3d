"""The sampling loop around two functions: a denoiser and a move.

z_0|t, n  = denoise(z_t)
z_0|t  <- move(z_0|t)
z_t-1  = next_latents(z_0|t, n)

Where the step is stochastic it replaces a part of the old noise, and with it a part of what a move left there that the
denoiser would not have drawn. A move of z_t itself (the paper's guidance) is the denoiser's: `Guidance.before`.
"""

from collections.abc import Callable, Sequence
from functools import cache

from torch import Tensor

from engine.priors.interface import Denoise
from engine.priors.steps import Step
from engine.sampling.noise import ImageNoise
from engine.sampling.step import next_latents
from engine.settings import Sampling
from engine.types import Prediction

Move = Callable[[Tensor, Step], Tensor]
"""(predicted clean latents (N, ...), step) -> those that sampling goes on with: what guidance does to a step."""

OnStep = Callable[[Step, Tensor], None]
"""Called after each step with it and the predicted clean latents (N, ...) that it went towards."""


def unmoved(clean: Tensor, _: Step) -> Tensor:
    """The move of plain sampling: none."""
    return clean


def in_interval(denoiser: Callable[[float], Denoise], sampling: Sampling) -> Denoise:
    """A denoiser with classifier-free guidance (CFG) in its interval, and the conditional branch alone elsewhere.

    denoiser: gives the one with CFG of a scale.
    """
    bound = cache(denoiser)
    return lambda z, step: bound(sampling.cfg_at(step.index, step.total))(z, step)


def sample(
    z: Tensor,
    denoise: Denoise,
    schedule: Sequence[Step],
    move: Move = unmoved,
    on_step: OnStep | None = None,
    eta: float = 0.0,
    noise: ImageNoise | None = None,
) -> Tensor:
    """Take latents (N, ...) through the steps of a schedule, or of a part of one.

    eta, from 0 (deterministic) to 1 (as much noise as DDPM adds): needs the images' `noise`.
    """
    for step in schedule:
        prediction = denoise(z, step)
        clean = move(prediction.clean, step)
        z = next_latents(Prediction(clean, prediction.noise), step, eta, noise)
        if on_step is not None:
            on_step(step, clean)
    return z
