"""Moves down the gradient, and the published algorithm as a whole (paper, eq. 9-12)."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from engine.classifiers import Preprocess, load_classifier
from engine.classifiers.statistics import Statistics, Tap
from engine.classifiers.untrained import untrained
from engine.errors import GuidanceError
from engine.guidance.gradient import (
    HALF_LOSS,
    HALF_SCALE,
    LEAST_SCALE,
    finite_gradient,
    fitted,
    gradient,
    loss_scale,
)
from engine.guidance.move import Guidance, Unguided, guided, relative_move
from engine.guidance.objective import Objective
from engine.priors import Step
from engine.sampling.loop import sample
from engine.settings import Alignment
from engine.types import Moments, Prediction


def step(index: int = 3, total: int = 10, alpha: float = 0.5, after: float = 0.6) -> Step:
    """A step of a diffusion that keeps the variance, by the squares of its signals."""
    return Step(
        index=index,
        total=total,
        timestep=torch.tensor(500),
        signal=alpha**0.5,
        noise=(1 - alpha) ** 0.5,
        signal_next=after**0.5,
        noise_next=(1 - after) ** 0.5,
        variance_next=1 - after,
        fresh=0.0,
        uncertainty=((1 - alpha) / alpha) ** 0.5,
    )


def square(z: Tensor) -> Tensor:
    return z.square().sum((1, 2, 3))


def test_one_guided_step_is_the_papers_equations_9_to_12() -> None:
    """Against a few lines of autograd in float64, with a network of two BatchNorm layers and a nonlinear decoder."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3, bias=False),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Conv2d(5, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    ).double()
    for bn in (net[1], net[4]):
        bn.running_mean.normal_()
        bn.running_var.uniform_(0.5, 2)
    net.eval()
    weight_decode = torch.randn(3, 4, dtype=torch.float64)
    weight_null, weight_prompt = torch.randn(2, 4, 4, dtype=torch.float64)

    def decode(z: Tensor) -> Tensor:
        return torch.einsum("dc,nchw->ndhw", weight_decode, z).tanh() / 2 + 0.5

    def unet(weight: Tensor, z: Tensor) -> Tensor:
        return torch.einsum("dc,nchw->ndhw", weight, z).sin()

    z, at, eta, cfg = torch.randn(2, 4, 8, 8, dtype=torch.float64), step(), 0.2, 15.0

    # The equations, one image at a time.
    expected = []
    for one in z.split(1):
        leaf = one.clone().requires_grad_()
        loss, x = torch.zeros((), dtype=torch.float64), decode(leaf)
        for layer in net:
            if isinstance(layer, nn.BatchNorm2d):
                loss = loss + (x.mean((0, 2, 3)) - layer.running_mean).norm()
                loss = loss + (x.var((0, 2, 3), unbiased=False) - layer.running_var).norm()
            x = layer(x)
        toward = one - eta * torch.autograd.grad(loss, leaf)[0]  # eq. 9
        null, prompted = unet(weight_null, toward), unet(weight_prompt, toward)
        noise = null + cfg * (prompted - null)  # eq. 10
        alpha, after = at.signal**2, at.signal_next**2
        clean = (toward - (1 - alpha) ** 0.5 * noise) / alpha**0.5  # eq. 11
        expected.append(after**0.5 * clean + (1 - after) ** 0.5 * noise)  # eq. 12

    classifier = load_classifier(
        net,
        labels=("a", "b"),
        preprocess=Preprocess(crop=(8, 8), mean=(0.0,) * 3, std=(1.0,) * 3),
        device="cpu",
    )
    classifier = replace(
        classifier,
        network=net,
        statistics=Statistics(
            source="batch-norm",
            taps=(Tap(net[1]), Tap(net[4])),
            stored=tuple(Moments(b.running_mean, b.running_var) for b in (net[1], net[4])),
        ),
    )
    objective = objective_in_float64(classifier, Alignment.paper(eta), decode)

    def denoise(z: Tensor, step: Step) -> Prediction:
        null, prompted = unet(weight_null, z), unet(weight_prompt, z)
        noise = null + cfg * (prompted - null)
        return Prediction((z - step.noise * noise) / step.signal, noise)

    guidance = guided(
        objective, Alignment.paper(eta), torch.zeros(2, dtype=torch.int64), 1.0, whole
    )
    found = sample(z, guidance.before(denoise), [at], guidance.move)
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-6, atol=1e-6)


def objective_in_float64(classifier, alignment, see) -> Objective:
    """An objective whose classifier is called on float64 pixels: its own `logits` is float32 by contract."""
    classifier = replace(classifier)
    object.__setattr__(classifier, "logits", lambda images: classifier.network(images))
    return Objective(classifier, alignment, see)


def whole(images: int, work):
    """Memory for all images."""
    return work(images)


def descending(
    loss: Callable[[Tensor], Tensor], alignment: Alignment, scale: float = 1.0
) -> Guidance:
    """Guidance by any loss."""
    return Guidance(lambda z, scale: gradient(z, loss, fitted(scale)), alignment, scale)


def moved(guidance: Guidance, z: Tensor, at: Step) -> Tensor:
    """What the denoiser sees of z."""
    return guidance.before(lambda z, step: Prediction(z, z))(z, at).clean


def test_the_clean_target_moves_the_prediction_and_not_the_latent() -> None:
    z = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    guidance = descending(square, Alignment(step="raw", scale=0.1, statistics="image"))
    assert torch.equal(moved(guidance, z, step()), z)
    torch.testing.assert_close(guidance.move(z, step()), z - 0.1 * 2 * z)
    noisy = descending(square, Alignment.paper(0.1))
    assert torch.equal(noisy.move(z, step()), z)
    torch.testing.assert_close(moved(noisy, z, step()), z - 0.1 * 2 * z)


@pytest.mark.parametrize("joint", [True, False])
def test_a_relative_move_has_the_stated_length_whatever_the_gradients_scale(joint: bool) -> None:
    grad = torch.randn(3, 4, 5, 5)
    move = relative_move(grad, 0.25, joint)
    torch.testing.assert_close(relative_move(1000 * grad, 0.25, joint), move)
    size = move.square().mean((0, 1, 2, 3) if joint else (1, 2, 3)).sqrt()
    torch.testing.assert_close(size, torch.full_like(size, 0.25))
    assert torch.equal(relative_move(torch.zeros_like(grad), 0.25, joint), torch.zeros_like(grad))


def test_a_relative_move_shifts_the_predicted_noise_by_the_scale() -> None:
    z, at = torch.randn(2, 4, 5, 5, dtype=torch.float64), step(alpha=0.2)
    clean = descending(square, Alignment(scale=0.3)).move(z, at) - z
    noisy = moved(descending(square, Alignment(scale=0.3, target="noisy")), z, at) - z
    as_noise = clean * at.signal / at.noise  # z_t = sqrt(a) clean + sqrt(1 - a) noise
    assert as_noise.square().mean().sqrt().item() == pytest.approx(0.3)
    assert noisy.square().mean().sqrt().item() == pytest.approx(0.3 * 0.8**0.5)


def test_several_moves_are_as_many_descents_each_as_long_as_what_the_step_leads_to() -> None:
    z, at = torch.randn(2, 4, 5, 5, dtype=torch.float64), step(alpha=0.2, after=0.8)
    guidance = descending(square, Alignment(scale=0.1, moves=3))
    found = guidance.move(z, at)
    expected = z
    for _ in range(3):
        expected = expected - relative_move(2 * expected, 0.1 * (0.2 / 0.8) ** 0.5, True)
    torch.testing.assert_close(found, expected)
    assert len(guidance.curve) == len(guidance.taken) == 3
    assert guidance.curve[2].sum() < guidance.curve[1].sum() < guidance.curve[0].sum()
    noisy = moved(descending(square, Alignment(scale=0.1, moves=2, target="noisy")), z, at)
    once = z - relative_move(2 * z, 0.1 * at.noise, True)
    torch.testing.assert_close(noisy, once - relative_move(2 * once, 0.1 * at.noise, True))
    raw = Alignment(step="raw", scale=0.1, moves=2, statistics="image")
    torch.testing.assert_close(descending(square, raw).move(z, at), z * 0.8**2)


def test_guidance_acts_in_its_window_and_never_at_the_last_step() -> None:
    guidance = descending(square, Alignment(start=0.2, stop=0.6))
    assert [n for n in range(10) if guidance.acts_on(step(n))] == [2, 3, 4, 5]
    whole = descending(square, Alignment(start=0.0, stop=1.0))
    assert [n for n in range(4) if whole.acts_on(step(n, 4))] == [0, 1, 2]
    assert not descending(square, Alignment(scale=0.0)).acts_on(step())


def acting(alignment: Alignment, total: int) -> list[int]:
    """The numbers of the guided steps of a schedule."""
    guidance = descending(square, alignment)
    return [number for number in range(total) if guidance.acts_on(step(number, total))]


def test_a_stride_guides_every_kth_step_of_its_part_of_the_schedule() -> None:
    assert acting(Alignment(stop=1.0, stride=3), 10) == [0, 3, 6]
    assert acting(Alignment(stop=0.9, stride=2, stride_from=1 / 3), 10) == [0, 1, 2, 3, 4, 6, 8]
    assert acting(Alignment(start=0.1, stop=0.9, stride=2), 30) == [*range(3, 27, 2)]
    assert acting(Alignment(stop=0.9, stride=4, stride_from=1.0), 10) == [*range(9)]
    made = [Alignment(stop=1.0, stride=3).stride_at(number, 12) for number in range(12)]
    assert made == [
        3,
        0,
        0,
        3,
        0,
        0,
        3,
        0,
        0,
        2,
        0,
        0,
    ]  # of step 9 and 10: the last is never guided


def test_a_move_in_strides_is_the_root_of_the_stride_times_as_long_and_a_raw_one_the_stride() -> (
    None
):
    z = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    alignment = Alignment(scale=0.1, stride=4, stride_from=0.5)
    guidance = descending(square, alignment)
    early, late = (guidance.move(z, step(number, 10)) - z for number in (0, 5))
    torch.testing.assert_close(late, 2 * early)
    raw = replace(alignment, step="raw", statistics="image")
    early, late = (descending(square, raw).move(z, step(number, 10)) - z for number in (0, 5))
    torch.testing.assert_close(late, 4 * early)


@pytest.mark.parametrize(
    ("statistics", "moved", "skipped"), [("image", 2, [0, 1, 0]), ("batch", 0, [1, 1, 1])]
)
def test_a_gradient_that_is_not_finite_is_skipped_and_counted(
    statistics: str, moved: int, skipped: list[int]
) -> None:
    def loss(z: Tensor) -> Tensor:
        return square(z) * torch.tensor([1.0, float("nan"), 1.0])

    z = torch.randn(3, 4, 2, 2)
    guidance = descending(loss, Alignment(statistics=statistics))
    found = guidance.move(z, step())
    assert found.isfinite().all()
    assert int((found != z).flatten(1).any(1).sum()) == moved
    assert guidance.skipped == skipped
    with pytest.raises(
        GuidanceError, match=rf"{sum(skipped)} of 3 guidance moves had a gradient that is NaN"
    ):
        guidance.check()


def test_a_tenth_of_the_steps_may_be_skipped() -> None:
    guidance = descending(square, Alignment())
    guidance.check()
    assert guidance.skipped == []
    guidance.taken = [
        torch.ones(10, dtype=torch.bool),
        torch.ones(10, dtype=torch.bool),
        torch.arange(10) > 2,
    ]
    guidance.check()
    assert guidance.skipped == [1] * 3 + [0] * 7
    guidance.taken[0][4] = False
    with pytest.raises(GuidanceError):
        guidance.check()


def test_plain_sampling_changes_nothing() -> None:
    z = torch.randn(1, 4, 2, 2)
    assert moved(Unguided(), z, step()) is z
    assert Unguided().move(z, step()) is z


class Half(nn.Module):
    """A float16 convolution, seen as a loss: its mean, times `factor`, in float32."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1, bias=False).half().requires_grad_(False)
        self.factor = factor

    def forward(self, z: Tensor) -> Tensor:
        return self.factor * self.conv(z.half()).float().square().mean((1, 2, 3))

    def exact(self, z: Tensor) -> Tensor:
        weight = self.conv.weight.double()
        return self.factor * nn.functional.conv2d(z.double(), weight).square().mean((1, 2, 3))


def cosine(a: Tensor, b: Tensor) -> float:
    return nn.functional.cosine_similarity(a.double().flatten(), b.double().flatten(), 0).item()


def test_a_gradient_too_small_for_float16_comes_through_by_a_scaled_loss() -> None:
    torch.manual_seed(1)
    z, loss = torch.randn(2, 4, 8, 8), Half(1e-6)
    _, expected = gradient(z.double(), loss.exact)
    assert gradient(z, loss)[1].abs().max() == 0
    _, found, scale = finite_gradient(
        partial(gradient, z, loss), loss_scale(torch.float32, torch.float16)
    )
    assert scale == HALF_SCALE
    assert found.dtype == torch.float32
    assert cosine(found, expected) > 0.99
    torch.testing.assert_close(
        found.double(), expected, rtol=0.05, atol=0.02 * expected.abs().max().item()
    )


@pytest.mark.parametrize("factor", [100.0, 1e7])
def test_a_scale_that_overflows_is_lowered_and_stays_so(factor: float) -> None:
    """Of a loss whose size does not tell how steep it is."""
    torch.manual_seed(1)
    z, half = torch.randn(2, 4, 8, 8), Half(factor)
    _, expected = gradient(z.double(), half.exact)
    assert not gradient(z, half, HALF_SCALE)[1].isfinite().all()
    guidance = descending(
        lambda z: half(z) - half(z).detach(),
        Alignment(step="raw", statistics="image", scale=1.0),
        HALF_SCALE,
    )
    moved = guidance.move(z, step())
    assert guidance.skipped == [0] * len(z)
    assert LEAST_SCALE <= guidance.scale < HALF_SCALE
    assert cosine(z - moved, expected) > 0.99
    before = guidance.scale
    again = guidance.move(z, step())
    assert guidance.scale == before
    assert cosine(z - again, expected) > 0.99


@pytest.mark.parametrize("factor", [1e-3, 1.0, 100.0, 1e7, 1e9])
def test_the_first_scale_follows_the_loss_so_that_one_pass_does(factor: float) -> None:
    torch.manual_seed(1)
    z, half, passes = torch.randn(2, 4, 8, 8), Half(factor), []
    _, expected = gradient(z.double(), half.exact)

    def loss(z: Tensor) -> Tensor:
        passes.append(1)
        return half(z)

    guidance = descending(loss, Alignment(step="raw", statistics="image", scale=1.0), HALF_SCALE)
    for made in (1, 2):
        moved = guidance.move(z, step())
        assert len(passes) == made
        assert cosine((z.double() - moved.double()) / factor, expected) > (
            0.99 if factor >= 1 else 0.9
        )
    assert (sum(guidance.skipped), guidance.scale) == (0, HALF_SCALE)


def test_a_fitted_scale_is_a_power_of_two_of_the_largest_value() -> None:
    of = fitted(HALF_SCALE)
    assert callable(of)
    for values, share in (([0.0, 3.0], 1), ([HALF_LOSS], 1), ([17.0, 2.0], 2), ([2e7], 2**21)):
        assert of(torch.tensor(values)) == HALF_SCALE / share
    assert of(torch.tensor([float("nan"), 40.0, float("inf")])) == HALF_SCALE / 4
    assert fitted(torch.tensor(8.0))(torch.tensor([33.0])) == 2.0
    assert fitted(1.0) == 1.0


def test_a_later_step_that_overflows_is_skipped_and_lowers_the_scale_of_the_next() -> None:
    torch.manual_seed(1)
    z, half, factors = torch.randn(1, 4, 8, 8), Half(1.0), iter([1.0, 1e4, 1e4, 1e4])

    def steep(z: Tensor) -> Tensor:
        value = next(factors) * half(z)
        return value - value.detach()

    guidance = descending(steep, Alignment(step="raw", scale=1.0), HALF_SCALE)
    moves = [not torch.equal(guidance.move(z, step()), z) for _ in range(4)]
    assert moves[0]
    assert not moves[1]
    assert moves[3]
    assert guidance.skipped == [moves.count(False)]


def test_a_gradient_that_no_scale_makes_finite_is_skipped_and_costs_no_scale() -> None:
    guidance = descending(
        lambda z: z.log().sum((1, 2, 3)), Alignment(statistics="image"), HALF_SCALE
    )
    z = torch.zeros(2, 4, 4, 4)
    assert torch.equal(guidance.move(z, step()), z)
    assert (sum(guidance.skipped), guidance.scale) == (2, HALF_SCALE)


def test_float32_and_bfloat16_are_left_as_they_are() -> None:
    assert loss_scale(torch.float32, torch.bfloat16) == 1
    z = torch.randn(3, 4, 4, 4)
    assert torch.equal(
        finite_gradient(partial(gradient, z, square), 1.0)[1], gradient(z, square)[1]
    )
    values, grad = gradient(z, square, 2.0**10)  # a power of two: nothing is rounded
    assert torch.equal(grad, gradient(z, square)[1])
    assert torch.equal(values, square(z))


def test_float16_takes_one_pass_by_a_network_whose_statistics_fit_nothing() -> None:
    """An untrained ResNet-50 with a new network's zeros and ones: its L_BN is above a million."""
    network = untrained("resnet50", 2)
    exact, half = (
        load_classifier(
            network, labels=("a", "b"), preprocess=Preprocess.squash(64), device="cpu", dtype=dtype
        )
        for dtype in (torch.float32, torch.float16)
    )
    images, passes = torch.rand(1, 3, 64, 64), []
    _, expected = Objective(exact, Alignment()).value_and_grad(images)
    objective = Objective(half, Alignment())

    def of(scale: float) -> tuple[Tensor, Tensor]:
        passes.append(scale)
        return objective.value_and_grad(images, scale=fitted(scale))

    values, grad, _ = finite_gradient(of, HALF_SCALE)
    assert values.item() > 1e6
    assert len(passes) == 1
    assert cosine(grad, expected) > 0.98
