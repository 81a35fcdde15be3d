"""Noise levels of every scheduler that is read, and the arithmetic of a step."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor

from engine.errors import ModelError
from engine.priors.steps import PREDICTIONS, READERS, Step, check_scheduler, levels, predict
from engine.sampling.step import next_latents
from engine.types import Prediction

DPM_FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
SCHEDULERS = {
    "ddim": DDIMScheduler(clip_sample=False),
    "euler": EulerDiscreteScheduler(timestep_spacing="trailing"),
    "ancestral": EulerAncestralDiscreteScheduler(),
    "dpm": DPMSolverMultistepScheduler(),
    "dpm flow": DPMSolverMultistepScheduler(**DPM_FLOW),
    "flow": FlowMatchEulerDiscreteScheduler(shift=3.0),
}


def steps_of(scheduler: Any, steps: int = 7) -> tuple[Step, ...]:
    scheduler.set_timesteps(steps)
    return levels(scheduler).steps(torch.device("cpu"))


@pytest.fixture(params=SCHEDULERS)
def scheduler(request: pytest.FixtureRequest) -> Any:
    return SCHEDULERS[request.param]


def test_levels_lead_from_noise_to_an_image(scheduler: Any) -> None:
    steps = steps_of(scheduler)
    for one, other in pairwise(steps):
        assert one.signal < one.signal_next == pytest.approx(other.signal, abs=0.03)
        assert one.noise > one.noise_next == pytest.approx(other.noise, abs=0.03)
        assert one.timestep > other.timestep
        assert one.timestep.shape == ()
        assert 0 < one.fresh <= one.noise_next
        assert one.variance_next == pytest.approx(one.noise_next**2)
        assert other.uncertainty < one.uncertainty < float("inf")
    assert steps[0].signal < 0.15
    assert steps[-1].noise_next < 0.1


def test_what_is_predicted_of_an_image_and_noise_is_both(scheduler: Any) -> None:
    """Every parameterisation, at every level: a network that is right is read rightly."""
    image, noise = torch.randn(2, 1, 4, 3, 3, dtype=torch.float64)
    for step in steps_of(scheduler):
        z = step.signal * image + step.noise * noise
        preserving = {
            "epsilon": noise,
            "v_prediction": step.signal * noise - step.noise * image,
            "sample": image,
        }
        flow = {"flow": noise - image}
        for kind, output in (flow if levels(scheduler).kind == "flow" else preserving).items():
            found = predict(output, z, step, kind)
            torch.testing.assert_close(found.clean, image, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(found.noise, noise, atol=1e-5, rtol=1e-5)


def test_a_step_takes_image_and_noise_to_the_next_level(scheduler: Any) -> None:
    """With eta the noise is renewed in part, and its variance stays."""
    image, noise = torch.zeros(1, 1, 200, 200), torch.randn(1, 1, 200, 200)
    fresh = type("", (), {"draw": lambda self: torch.randn(1, 1, 200, 200)})()
    for step in steps_of(scheduler):
        prediction = Prediction(image + 0.5, noise)
        plain = next_latents(prediction, step)
        torch.testing.assert_close(plain, step.signal_next * 0.5 + step.noise_next * noise)
        for eta in (0.5, 1.0):
            mixed = next_latents(prediction, step, eta, fresh) - step.signal_next * 0.5
            assert float(mixed.std()) == pytest.approx(step.noise_next, rel=0.02, abs=1e-6)
            assert mixed.isfinite().all()


def test_a_fully_stochastic_step_is_ddpm_s() -> None:
    """The posterior variance of DDPM (arXiv 2006.11239, eq. 7)."""
    scheduler = SCHEDULERS["ddim"]
    for step in steps_of(scheduler):
        alpha, after = step.signal**2, step.signal_next**2
        posterior = (1 - after) / (1 - alpha) * (1 - alpha / after)
        assert step.fresh**2 == pytest.approx(posterior, rel=1e-4)


def test_exploding_latents_start_as_their_scheduler_s() -> None:
    scheduler = SCHEDULERS["euler"]
    scheduler.set_timesteps(4)
    found, sigma = levels(scheduler), scheduler.sigmas[0]
    noise: Tensor = torch.randn(1, 4, 3, 3)
    theirs = scheduler.scale_model_input(noise * scheduler.init_noise_sigma, scheduler.timesteps[0])
    torch.testing.assert_close(noise * found.start, theirs)
    assert found.start == pytest.approx(float(sigma / (1 + sigma**2) ** 0.5))


def test_a_scheduler_that_cannot_be_read_is_answered_with_those_that_can() -> None:
    known = ", ".join(READERS)
    with pytest.raises(ModelError, match=rf"is a DDPMScheduler, expected one of {known}: replace"):
        check_scheduler(DDPMScheduler())
    known = ", ".join(map(repr, PREDICTIONS))
    with pytest.raises(ModelError, match=f"predicts 'score', expected one of {known}: correct"):
        levels(DDIMScheduler(prediction_type="score"))
