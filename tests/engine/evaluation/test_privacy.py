"""The Gaussian mechanism on moments: its noise, what one image can change, and what is refused."""

import math

import pytest
import torch

from engine.errors import ConfigError
from engine.evaluation import privacy
from engine.evaluation.privacy import PrivateMoments, noise_multiplier
from engine.types import Moments

PUBLIC = [Moments(torch.zeros(3), torch.ones(3)), Moments(torch.ones(2), torch.full((2,), 4.0))]


def by_integral(multiplier: float, epsilon: float) -> float:
    """delta of Gaussian noise: the integral of max(0, p - e^epsilon q) over two Gaussians one sensitivity apart."""
    x = torch.linspace(-12, 12, 400_001, dtype=torch.float64) * max(multiplier, 1)
    p = torch.exp(-0.5 * ((x - 1) / multiplier) ** 2)
    q = torch.exp(-0.5 * (x / multiplier) ** 2)
    gap = (p - math.exp(epsilon) * q).clamp_min(0) / (multiplier * math.sqrt(2 * math.pi))
    return float(torch.trapezoid(gap, x))


@pytest.mark.parametrize(("epsilon", "delta"), [(0.5, 1e-5), (1.0, 1e-3), (3.0, 1e-5), (8.0, 1e-6)])
def test_the_noise_is_the_least_that_keeps_the_promise(epsilon: float, delta: float) -> None:
    found = noise_multiplier(epsilon, delta)
    assert by_integral(found, epsilon) == pytest.approx(delta, rel=1e-3)
    assert by_integral(0.99 * found, epsilon) > 1.01 * delta
    if epsilon <= 1:  # the classical bound holds there, and is looser
        assert found < math.sqrt(2 * math.log(1.25 / delta)) / epsilon


def rows(images: int, mean: float = 0.0, var: float = 1.0) -> list[Moments]:
    return [Moments(torch.full((images, c), mean), torch.full((images, c), var)) for c in (3, 2)]


def test_no_image_changes_the_sum_by_more_than_the_radius() -> None:
    for extreme in (rows(1, 1e6, 1e9), rows(1, -1e6), rows(1, float("nan")), rows(1, float("inf"))):
        private = PrivateMoments(PUBLIC, 8.0, 1e-5, 1.0, 2000)
        private.add(extreme)
        assert float(private.total.norm()) <= private.radius * (1 + 1e-9)
        assert private.total.isfinite().all()
    assert private.radius == pytest.approx(math.sqrt(10))
    assert private.noise == pytest.approx(2 * private.radius * noise_multiplier(8.0, 1e-5))


def test_what_is_released_is_the_moments_where_nothing_is_clipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[float] = []
    monkeypatch.setattr(
        privacy,
        "SystemRandom",
        lambda: type("R", (), {"gauss": lambda _, m, s: drawn.append(s) or m})(),
    )
    means = 0.4 * torch.randn(600, 5)
    variances = 0.5 + torch.rand(600, 5)
    private = PrivateMoments(PUBLIC, 8.0, 1e-5, 50.0 / 8, 600 * 6)
    for _ in range(6):
        for part in range(0, 600, 100):
            m, v = means[part : part + 100], variances[part : part + 100]
            private.add([Moments(m[:, :3], v[:, :3]), Moments(m[:, 3:], v[:, 3:])])
    found = private.release()
    mean = torch.cat([one.mean for one in found])
    var = torch.cat([one.var for one in found])
    torch.testing.assert_close(mean, means.double().mean(0), rtol=0, atol=1e-5)
    expected = variances.double().mean(0) + means.double().var(0, correction=0)
    torch.testing.assert_close(var, expected, rtol=1e-4, atol=1e-4)
    assert drawn == [private.noise] * 10


def test_noise_is_new_each_time_and_as_large_as_it_says() -> None:
    found = []
    wide = [Moments(torch.zeros(4000), torch.ones(4000))]
    for _ in range(2):
        private = PrivateMoments(wide, 8.0, 1e-5, 1.0, 3000)
        private.add([Moments(torch.zeros(3000, 4000), torch.ones(3000, 4000))])
        found.append(private.release()[0].mean)
    assert not torch.equal(*found)
    assert float(found[0].std()) == pytest.approx(private.noise / 3000, rel=0.1)


def test_too_few_images_are_refused_with_the_number_that_would_do() -> None:
    with pytest.raises(
        ConfigError, match=r"epsilon is 1 with 20 images .* expected at least (\d+)"
    ) as no:
        PrivateMoments(PUBLIC, 1.0, 1e-5, 1.0, 20)
    enough = int(str(no.value).split("at least ")[1].split()[0])
    PrivateMoments(PUBLIC, 1.0, 1e-5, 1.0, enough)
    with pytest.raises(
        ConfigError, match=r"Measure more images, fewer `layers`, or raise `epsilon`"
    ):
        PrivateMoments(PUBLIC, 1.0, 1e-5, 1.0, enough - 1)
    with pytest.raises(
        ConfigError, match=r"delta is 0.01 with 500 images, expected less than 0.002"
    ):
        PrivateMoments(PUBLIC, 8.0, 0.01, 1.0, 500)


def test_images_that_went_missing_meanwhile_are_an_error() -> None:
    private = PrivateMoments(PUBLIC, 8.0, 1e-5, 1.0, 2000)
    private.add(rows(1999))
    with pytest.raises(ConfigError, match="1999 images were measured, expected 2000"):
        private.release()
