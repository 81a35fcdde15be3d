"""The steps of a sampling run, in numbers that hold for every kind of diffusion.

    z = signal x0 + noise n

    variance preserving   signal = sqrt(alpha)            noise = sqrt(1 - alpha)
    variance exploding    signal = 1 / sqrt(1 + sigma^2)  noise = sigma signal     (z is divided by sqrt(1 + sigma^2))
    flow                  signal = 1 - sigma              noise = sigma

A network predicts x0 and n in one of four parameterisations; `predict` solves each for both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from engine.errors import ModelError
from engine.priors import hollow
from engine.types import Prediction

FLOW = "flow"


@dataclass(frozen=True)
class Step:
    """One step of a schedule: where z is, and where it goes next.

    The numbers are those that the scheduler itself computes with, float32 for most, so that arithmetic
    on float32 latents has the scheduler's own bits.

    Attributes:
        index: Number of the step, from 0.
        total: Number of steps of the whole schedule.
        timestep: What the network gets, () in the scheduler's dtype, on the prior's device.
        signal: Factor of the clean latent in z.
        noise: Factor of the unit noise in z.
        signal_next: Factor of the clean latent after the step.
        noise_next: Factor of the unit noise after the step.
        variance_next: noise_next squared, not rounded twice.
        fresh: Standard deviation of the noise that a fully stochastic step (eta = 1) draws.
        uncertainty: Expected rms error of the predicted clean latent, the unit of guidance's moves:
            noise / signal. A flow starts at signal 0, so there it is that of the next level.
    """

    index: int
    total: int
    timestep: Tensor
    signal: float
    noise: float
    signal_next: float
    noise_next: float
    variance_next: float
    fresh: float
    uncertainty: float

    @property
    def is_last(self) -> bool:
        return self.index == self.total - 1


class Levels(NamedTuple):
    """What a scheduler says of its T steps. All but `timesteps` are float64 on the CPU.

    start: what unit noise is multiplied by to begin. kind: one of PREDICTIONS.
    """

    timesteps: Tensor
    signal: Tensor
    noise: Tensor
    signal_next: Tensor
    noise_next: Tensor
    variance_next: Tensor
    fresh: Tensor
    uncertainty: Tensor
    start: float
    kind: str

    def steps(self, device: torch.device) -> tuple[Step, ...]:
        """The steps, timesteps descending, with timesteps on a device; those for 'meta' keep their values."""
        total = len(self.timesteps)
        numbers = torch.stack(self[1:8]).T.tolist()
        place = "cpu" if hollow.is_hollow(device) else device
        timesteps = self.timesteps.to(place).unbind()
        return tuple(
            Step(index, total, timestep, *values)
            for index, (timestep, values) in enumerate(zip(timesteps, numbers, strict=True))
        )


def levels(scheduler: Any) -> Levels:
    """Read a diffusers scheduler whose timesteps are set.

    Raises ModelError for a scheduler or a prediction type that is in no table here.
    """
    return _reader(scheduler)(scheduler)


def check_scheduler(scheduler: Any) -> None:
    """Raise ModelError for a scheduler that `levels` cannot read."""
    _reader(scheduler)


def predict(output: Tensor, z: Tensor, step: Step, kind: str) -> Prediction:
    """Solve a network's output (N, ...) for the clean latent and the noise in z (N, ...)."""
    return PREDICTIONS[kind](output, z, step.signal, step.noise)


def _epsilon(output: Tensor, z: Tensor, signal: float, noise: float) -> Prediction:
    return Prediction((z - noise * output) / signal, output)


def _velocity(output: Tensor, z: Tensor, signal: float, noise: float) -> Prediction:
    return Prediction(signal * z - noise * output, signal * output + noise * z)


def _clean(output: Tensor, z: Tensor, signal: float, noise: float) -> Prediction:
    return Prediction(output, (z - signal * output) / noise)


def _flow_velocity(output: Tensor, z: Tensor, signal: float, noise: float) -> Prediction:
    return Prediction(z - noise * output, z + signal * output)


PREDICTIONS: dict[str, Callable[[Tensor, Tensor, float, float], Prediction]] = {
    "epsilon": _epsilon,
    "v_prediction": _velocity,
    "sample": _clean,
    FLOW: _flow_velocity,
}
"""(output, z, signal, noise) -> prediction. All but the flow's assume signal^2 + noise^2 = 1."""


def _read_ddim(scheduler: Any) -> Levels:
    """Alphas are float32 in diffusers, and what follows from them is rounded as its `step` does."""
    alphas, timesteps = scheduler.alphas_cumprod.cpu(), scheduler.timesteps.long().cpu()
    # Not the next timestep but one stride on: for some spacings the two differ.
    before = timesteps - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    alpha = alphas[timesteps]
    following = torch.where(
        before >= 0, alphas[before.clamp_min(0)], scheduler.final_alpha_cumprod.cpu()
    )
    fresh = ((1 - following) / (1 - alpha) * (1 - alpha / following)) ** 0.5
    exact = alpha.double()
    return Levels(
        timesteps=scheduler.timesteps,
        signal=(alpha**0.5).double(),
        noise=((1 - alpha) ** 0.5).double(),
        signal_next=(following**0.5).double(),
        noise_next=((1 - following) ** 0.5).double(),
        variance_next=(1 - following).double(),
        fresh=fresh.double(),
        uncertainty=(1 - exact).sqrt() / exact.sqrt(),
        start=1.0,
        kind=levels_kind(scheduler),
    )


def _read_lcm(scheduler: Any) -> Levels:
    """Every step renews all noise but for the last, which has none; that is a fresh part as large as the noise.

    At their first timesteps, networks for it are blended with their input: 7e-6 of it at most, and left out.
    """
    alpha = scheduler.alphas_cumprod[scheduler.timesteps.long().cpu()].double().cpu()
    alpha = torch.cat([alpha, torch.ones(1, dtype=torch.float64)])
    signal, noise = alpha.sqrt(), (1 - alpha).sqrt()
    found = _between(scheduler, signal, noise, (noise / signal)[:-1], 1.0)
    return found._replace(fresh=noise[1:])


def _read_sigmas(scheduler: Any) -> Levels:
    """Sigma is noise / signal. Euler's latents grow with it; ours, and those of DPM++, do not."""
    sigma = scheduler.sigmas.double().cpu()
    signal = (1 + sigma**2).rsqrt()
    grows = type(scheduler).__name__ in EXPLODING
    start = float(scheduler.init_noise_sigma) * float(signal[0]) if grows else 1.0
    return _between(scheduler, signal, sigma * signal, sigma[:-1], start)


def _read_flow(scheduler: Any) -> Levels:
    sigma = scheduler.sigmas.double().cpu()
    following = sigma[1:] / (1 - sigma[1:])
    return _between(scheduler, 1 - sigma, sigma, following, 1.0)


def _read_multistep(scheduler: Any) -> Levels:
    return _read_flow(scheduler) if levels_kind(scheduler) == FLOW else _read_sigmas(scheduler)


def _between(
    scheduler: Any, signal: Tensor, noise: Tensor, uncertainty: Tensor, start: float
) -> Levels:
    """Levels of T steps from the T + 1 values that they go between."""
    before, after = slice(None, -1), slice(1, None)
    kept = signal[before] * noise[after] / (signal[after] * noise[before])
    return Levels(
        timesteps=scheduler.timesteps,
        signal=signal[before],
        noise=noise[before],
        signal_next=signal[after],
        noise_next=noise[after],
        variance_next=noise[after] ** 2,
        fresh=noise[after] * (1 - kept**2).clamp_min(0).sqrt(),
        uncertainty=uncertainty,
        start=start,
        kind=levels_kind(scheduler),
    )


def levels_kind(scheduler: Any) -> str:
    """What the networks of a scheduler's prior predict: one of PREDICTIONS, if it is known."""
    named = scheduler.config.get("prediction_type", "epsilon")
    is_flow = named == "flow_prediction" or "FlowMatch" in type(scheduler).__name__
    return FLOW if is_flow else str(named)


EXPLODING = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
READERS: dict[str, Callable[[Any], Levels]] = {
    "DDIMScheduler": _read_ddim,
    **dict.fromkeys(EXPLODING, _read_sigmas),
    "DPMSolverMultistepScheduler": _read_multistep,
    "FlowMatchEulerDiscreteScheduler": _read_flow,
    "LCMScheduler": _read_lcm,
}
"""Schedulers whose noise levels can be read, by class."""


def _reader(scheduler: Any) -> Callable[[Any], Levels]:
    name, kind = type(scheduler).__name__, levels_kind(scheduler)
    if name not in READERS:
        raise ModelError(
            f"the prior's scheduler is a {name}, expected one of {', '.join(READERS)}: replace it, as by "
            "`pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)` where the prior is no flow."
        )
    if kind not in PREDICTIONS:
        raise ModelError(
            f"the prior's {name} says that its network predicts {kind!r}, expected one of "
            f"{', '.join(map(repr, PREDICTIONS))}: correct `prediction_type` in the scheduler's config."
        )
    return READERS[name]
