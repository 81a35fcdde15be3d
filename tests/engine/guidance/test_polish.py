"""Finished images move down the objective of guidance, in pixel space."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine import GuidedScheduler, generate
from engine.classifiers import Classifier
from engine.errors import ConfigError, GuidanceError
from engine.guidance.objective import Objective
from engine.guidance.polish import polished, polishing
from engine.memory.plan import plan
from engine.priors import Prior
from engine.settings import Alignment, Polish, Sampling

ALIGNMENT = Alignment(polish=Polish(steps=3, scale=0.01))
CLASSES = torch.tensor([0, 1, 2, 3])


@pytest.fixture
def images(classifier: Classifier) -> Tensor:
    height, width = classifier.preprocess.crop
    return torch.rand(4, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("statistics", ["batch", "image"])
def test_a_move_is_the_gradient_at_an_rms(
    classifier: Classifier, images: Tensor, statistics: str
) -> None:
    alignment = replace(ALIGNMENT, statistics=statistics)
    objective = Objective(classifier, alignment, fused=False)
    wanted = images
    for _ in range(3):
        leaf = wanted.clone().requires_grad_()
        (grad,) = torch.autograd.grad(objective.value(leaf, CLASSES).sum(), leaf)
        axes = (0, 1, 2, 3) if statistics == "batch" else (1, 2, 3)
        rms = grad.square().mean(axes, keepdim=True).sqrt()
        wanted = (wanted - 0.01 * grad / rms).clamp(0, 1)
    found = polished(images, polishing(classifier, alignment, CLASSES))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    before, after = (objective.value(x, CLASSES).sum() for x in (images, found))
    assert after < before


def test_parts_give_the_moves_of_the_whole(classifier: Classifier, images: Tensor) -> None:
    def in_pairs(_: int, work: Callable[[int], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        return work(2)

    whole = polished(images, polishing(classifier, ALIGNMENT, CLASSES))
    parts = polished(images, polishing(classifier, ALIGNMENT, CLASSES, in_pairs))
    torch.testing.assert_close(parts, whole, atol=1e-4, rtol=0)


def test_a_network_whose_gradient_is_not_finite_ends_the_run(
    classifier: Classifier, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> tuple[Tensor, Tensor]:
        return torch.zeros(1), torch.full_like(images, torch.nan)

    monkeypatch.setattr(Objective, "value_and_grad", broken)
    with pytest.raises(GuidanceError, match="12 of 12"):
        polished(images, polishing(classifier, ALIGNMENT, CLASSES))


def test_a_run_polishes_what_it_decoded(small_prior: Prior, classifier: Classifier) -> None:
    def made(polish: Polish) -> list[tuple[Tensor, float]]:
        settings = {
            "sampling": Sampling(steps=3, batch=4),
            "alignment": Alignment(polish=polish),
        }
        found = generate(classifier, small_prior, classifier.labels[:2], 2, **settings)
        return [(sample.image, sample.l_bn) for sample in found]

    decoded, images = made(Polish()), made(Polish(steps=4))
    for (before, far), (after, near) in zip(decoded, images, strict=True):
        assert 0 < (after - before).square().mean().sqrt() <= 4 * 0.004 * 1.5
        assert after.equal(after.clamp(0, 1))
        assert near < far


def test_a_plan_has_room_for_it(small_prior: Prior, classifier: Classifier) -> None:
    off, on = (
        plan(small_prior, classifier, "8GB", batch=8, alignment=alignment, tokens=False)
        for alignment in (Alignment(), ALIGNMENT)
    )
    assert "polish" not in off.peak_bytes
    assert on.micro_batch["polish"] == 8
    network = sum(value.nbytes for value in classifier.network.parameters())
    assert on.peak_bytes["polish"] > network


def test_a_wrapped_scheduler_cannot(small_prior: Prior, classifier: Classifier) -> None:
    with pytest.raises(ConfigError, match=r"polish\.steps is 3, expected 0"):
        GuidedScheduler(small_prior.pipe, classifier, ALIGNMENT)


@pytest.mark.parametrize(("given", "said"), [({"steps": -1}, "steps"), ({"scale": -0.1}, "scale")])
def test_settings_that_make_no_sense(given: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=f"{said} is -"):
        Polish(**given)
