"""The gradient of finished images taken back to early steps: exact where the velocity of the network is constant."""

import copy

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from engine.errors import ConfigError
from engine.guidance.move import Unguided
from engine.priors import Context, Prior, Step
from engine.priors.steps import levels, predict
from engine.prompts import class_prompt
from engine.sampling.step import next_latents
from engine.settings import Sampling, TokenLearning
from engine.tokens.early import EARLY_STEPS, early_pool, early_steps, propagation_factor
from engine.tokens.trajectories import Trajectories
from engine.types import ImageKey, Prediction

KEYS = [ImageKey(0, 0), ImageKey(0, 1)]


class Drawn:
    """Noise that is the same each time it is drawn."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.value = torch.randn(shape, dtype=torch.float64)

    def draw(self) -> Tensor:
        return self.value


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["v_prediction", "flow"])
def test_a_change_of_a_prediction_reaches_the_end_by_the_factor(kind: str, eta: float) -> None:
    scheduler = (
        FlowMatchEulerDiscreteScheduler(shift=3.0)
        if kind == "flow"
        else DDIMScheduler(prediction_type="v_prediction", timestep_spacing="trailing")
    )
    scheduler.set_timesteps(6)
    schedule = levels(scheduler).steps(torch.device("cpu"))
    outputs = torch.randn(6, 2, 3, 4, 4, dtype=torch.float64)
    noise, change = Drawn((2, 3, 4, 4)), torch.randn(2, 3, 4, 4, dtype=torch.float64)

    def end(changed: int | None) -> Tensor:
        z = torch.ones(2, 3, 4, 4, dtype=torch.float64)
        for step, output in zip(schedule, outputs, strict=True):
            found = predict(output, z, step, kind)
            if step.index == changed:
                clean = found.clean + change
                found = Prediction(clean, (z - step.signal * clean) / step.noise)
            z = next_latents(found, step, eta, noise)  # type: ignore[arg-type]
        return z

    for number in range(5):
        factor = propagation_factor(schedule, number, eta)
        torch.testing.assert_close(end(number) - end(None), factor * change, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_an_update_reads_finished_images_and_moves_them_by_early_steps(
    tiny_prior: Prior, cfg: float
) -> None:
    """Against a chain of steps whose velocities are constants, but for the one step that has a graph."""
    parts = ("text_encoder", "unet", "vae")
    prior = tiny_prior.replaced(
        **{name: copy.deepcopy(getattr(tiny_prior.pipe, name)).double() for name in parts}
    )
    sampling, at = Sampling(steps=4, cfg=cfg, eta=0.0), (0, 2)
    context = prior.encode(["a dog"] * 2, "" if cfg != 1 else None)
    images = Trajectories(
        prior, KEYS, context, sampling, 0, lambda _: Unguided(), at=at, through=True
    )
    images.prepare(0)
    leaf = context.packed().clone().requires_grad_()
    found = images.latents(0, context.with_packed(leaf))
    torch.testing.assert_close(found.detach(), images.finished([0, 1]), rtol=0, atol=1e-9)
    readout = torch.randn_like(found)
    (ours,) = torch.autograd.grad((found * readout).sum(), leaf)

    expected = torch.zeros_like(ours)
    for number in at:
        twin = context.packed().clone().requires_grad_()
        z = _chained(prior, context, context.with_packed(twin), images, number, sampling)
        torch.testing.assert_close(z.detach(), found.detach(), rtol=1e-5, atol=1e-6)
        expected += torch.autograd.grad((z * readout).sum(), twin)[0] * early_pool(4) / len(at)
    assert ours.norm() > 0
    assert (ours - expected).norm() < 1e-5 * expected.norm()
    branches = 1 if cfg == 1 else 2
    assert images.complete
    assert images.denoiser_forward.tolist() == [_evaluations(at, branches)] * 2
    assert images.denoiser_backward.tolist() == [2, 2]


def _evaluations(at: tuple[int, ...], branches: int) -> int:
    """Of whole sampling, and of the conditional branch of the steps that have a graph."""
    return 4 * branches + len(at)


def _chained(
    prior: Prior,
    fixed: Context,
    moving: Context,
    images: Trajectories,
    number: int,
    sampling: Sampling,
) -> Tensor:
    """Finished latents by the step `number` with a graph, and later ones whose velocities are constants."""
    schedule = prior.schedule(sampling.steps)
    z = images.kept[number]
    found = prior.denoiser(moving, sampling.cfg)(z, schedule[number])
    z = next_latents(found, schedule[number])
    for step in schedule[number + 1 :]:
        with torch.no_grad():
            predicted = prior.denoiser(fixed, sampling.cfg)(z.detach(), step)
        z = next_latents(_by_velocity(predicted, z, step), step)
    return z


def _by_velocity(found: Prediction, z: Tensor, step: Step) -> Prediction:
    velocity = step.signal * found.noise - step.noise * found.clean
    return predict(velocity, z, step, "v_prediction")


def test_early_steps_are_of_the_first_part_and_few() -> None:
    rng = torch.Generator().manual_seed(0)
    drawn = [early_steps(10, rng) for _ in range(40)]
    assert all(len(set(steps)) == EARLY_STEPS and steps == sorted(steps) for steps in drawn)
    assert {number for steps in drawn for number in steps} == set(range(early_pool(10)))
    assert early_steps(1, rng) == [0]


def test_a_token_takes_the_place_of_the_name() -> None:
    assert class_prompt("mail_bag", "<ddis-x>", instead=True) == "a <ddis-x>"
    assert class_prompt("owl", "<x>", "a sketch of {a} {class}", instead=True) == (
        "a sketch of an <x>"
    )
    assert class_prompt("owl", instead=True) == "an owl"  # a class without a token


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: TokenLearning(place="instead"),
            "init is 'words' and `place` is 'instead', expected a start that means the class",
        ),
        (
            lambda: TokenLearning(gradient="early"),
            "updates_per_trajectory is 5 with the gradient of early steps, expected 1",
        ),
        (lambda: TokenLearning(norm_cap=-1), "norm_cap is -1, expected"),
        (lambda: TokenLearning(check_doublings=9), "check_doublings is 9, expected .* from 0 to 8"),
        (
            lambda: TokenLearning(check_images=1024, check_doublings=3),
            "up to 8,192 images a class, expected at most 4,096: lower one of them",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
