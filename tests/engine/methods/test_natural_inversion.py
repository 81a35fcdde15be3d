"""NaturalInversion: its networks, and what its iterations do."""

from dataclasses import replace

import pytest
import torch

from engine.classifiers import Classifier
from engine.guidance.domain import Domain
from engine.methods.natural_inversion import natural_inversion
from engine.methods.pyramid import FeaturePyramid, ImageGenerator, recording_features
from engine.settings.inversion import NaturalInversion

CLASSES = [0, 1, 2, 3, 4, 5, 6, 0]
FEW = NaturalInversion(iterations=10, width=8, latent=8, bn_weight=1.0)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [(32, 32), (15, 20), (8, 8), (224, 160)], ids=str)
def test_the_generator_draws_any_size(size: tuple[int, int]) -> None:
    network = ImageGenerator(size, latent=5, width=4)
    assert network(torch.randn(2, 5)).shape == (2, 3, *size)
    assert max(network.sizes[0]) <= 8


def test_the_pyramid_uses_every_feature_and_the_pixels(classifier: Classifier) -> None:
    with recording_features(classifier.statistics.taps) as features:
        classifier.logits(torch.rand(2, 3, 16, 16))
        found = [feature.detach().requires_grad_() for feature in features.values()]
    assert [tuple(feature.shape[1:]) for feature in found] == [(4, 16, 16), (6, 8, 8), (8, 4, 4)]
    assert not features
    assert not any(
        layer._forward_pre_hooks for layer in [tap.layer for tap in classifier.statistics.taps]
    )
    pixels = torch.randn(2, 3, 16, 16, requires_grad=True)
    drawn = FeaturePyramid([feature.shape[1] for feature in found], width=4)(pixels, found)
    drawn.square().mean((0, 2, 3)).sum().sub((drawn**3).mean()).backward()
    assert drawn.shape == pixels.shape
    assert all(value.grad.abs().sum() > 0 for value in [pixels, *found])


def test_iterations_lower_the_loss_and_l_bn(classifier: Classifier) -> None:
    def after(iterations: int) -> float:
        images = natural_inversion(classifier, CLASSES, rng(), replace(FEW, iterations=iterations))
        assert images.shape == (8, 3, 16, 16)
        assert images.min() >= 0
        assert images.max() <= 1
        domain = Domain.of(classifier.network, classifier.statistics)
        with torch.no_grad(), domain.watched() as l_bn:
            classifier.logits(images)
            return l_bn().item()

    assert after(60) < 0.8 * after(1)


def test_the_generator_decides_the_images_and_the_process_keeps_its_random_state(
    classifier: Classifier,
) -> None:
    torch.manual_seed(9)
    before = torch.get_rng_state()
    once, again, other = (
        natural_inversion(classifier, [0, 1], rng(seed), replace(FEW, iterations=2))
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(once, again)
    assert not torch.allclose(once, other, atol=0.05)
