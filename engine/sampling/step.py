"""The next latents of a sampling run, for every kind of diffusion (DDIM, arXiv 2010.02502, eq. 12 and 16).

    z' = signal' x0 + sqrt(noise'^2 - s^2) n + s fresh
    s  = eta noise' sqrt(1 - (signal noise' / (signal' noise))^2)

With eta = 0 no fresh noise is drawn; with eta = 1 a step renews as much of it as DDPM does.
"""

import torch
from torch import Tensor

from engine.priors.steps import Step
from engine.sampling.noise import ImageNoise
from engine.types import Prediction


def next_latents(
    prediction: Prediction, step: Step, eta: float = 0.0, noise: ImageNoise | None = None
) -> Tensor:
    """The next latents (N, ...); `noise` is drawn from where eta > 0."""
    if not eta or noise is None:
        return step.signal_next * prediction.clean + step.noise_next * prediction.noise
    # In float32, as diffusers' DDIMScheduler has it, so that the bits are the same.
    fresh = eta * torch.tensor(step.fresh, dtype=torch.float32)
    kept = (torch.tensor(step.variance_next, dtype=torch.float32) - fresh**2).clamp_min(0) ** 0.5
    return step.signal_next * prediction.clean + kept * prediction.noise + fresh * noise.draw()
