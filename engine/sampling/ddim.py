"""DDIM (arXiv 2010.02502, eq. 12 and 16) around two functions: a denoiser and a move.

z_0|t, e  = denoise(z_t)
z_0|t  <- move(z_0|t)
z_t-1  = sqrt(a_t-1) z_0|t + sqrt(1 - a_t-1 - s^2) e + s n,   s = eta sqrt((1 - a_t-1) / (1 - a_t) (1 - a_t / a_t-1))

With eta = 0 the noise n is not drawn. With eta > 0 a step replaces a part of the old noise, and with it a part of what
a move left there that the denoiser would not have drawn. A move of z_t itself (the paper's guidance) is the denoiser's:
`Guidance.before`.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from engine.sampling.noise import ImageNoise
from engine.types import Denoise, Move, Prediction, Step

OnStep = Callable[[Step, Tensor], None]
"""Called after each step with it and the predicted clean latents (N, 4, h, w) that it went towards."""


def unmoved(clean: Tensor, _: Step) -> Tensor:
    """The move of plain sampling: none."""
    return clean


def ddim_step(
    prediction: Prediction, step: Step, eta: float = 0.0, noise: ImageNoise | None = None
) -> Tensor:
    """The next latents (N, 4, h, w); `noise` is drawn from where eta > 0."""
    if not eta or noise is None:
        return (
            step.alpha_next**0.5 * prediction.clean
            + (1 - step.alpha_next) ** 0.5 * prediction.noise
        )
    variance = (1 - step.alpha_next) / (1 - step.alpha) * (1 - step.alpha / step.alpha_next)
    sigma = eta * variance**0.5
    kept = (1 - step.alpha_next - sigma**2) ** 0.5 * prediction.noise
    return step.alpha_next**0.5 * prediction.clean + kept + sigma * noise.draw()


def sample(
    z: Tensor,
    denoise: Denoise,
    schedule: Sequence[Step],
    move: Move = unmoved,
    on_step: OnStep | None = None,
    eta: float = 0.0,
    noise: ImageNoise | None = None,
) -> Tensor:
    """Take latents (N, 4, h, w) through the steps of a schedule, or of a part of one.

    eta, from 0 (deterministic) to 1 (as much noise as DDPM adds): needs the images' `noise`.
    """
    for step in schedule:
        prediction = denoise(z, step)
        clean = move(prediction.clean, step)
        z = ddim_step(Prediction(clean, prediction.noise), step, eta, noise)
        if on_step is not None:
            on_step(step, clean)
    return z
