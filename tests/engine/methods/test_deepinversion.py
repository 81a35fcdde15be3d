"""DeepInversion: its loss in other words, and what its iterations do."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.guidance.domain import Domain, judged
from engine.methods.deepinversion import deep_inversion, inversion_loss
from engine.settings.inversion import DeepInversion

FEW = DeepInversion(iterations=30, jitter=1, bn_weight=1.0)
CLASSES = [0, 1, 2, 3, 4, 5, 6, 0]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_distance(classifier: Classifier, images: torch.Tensor) -> float:
    domain = Domain.of(classifier.network, classifier.statistics)
    with torch.no_grad(), domain.watched() as l_bn:
        classifier.logits(images)
        return l_bn().item()


def test_the_loss_is_the_papers(classifier: Classifier, student: Classifier) -> None:
    settings = DeepInversion(
        class_weight=0.5, bn_weight=2.0, tv_weight=0.03, l2_weight=0.07, competition=10.0
    )
    x = torch.rand(4, 3, 16, 16)
    target = torch.tensor([0, 3, 6, 2])
    inputs: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        for layer in [tap.layer for tap in classifier.statistics.taps]
    ]
    expected_logits = classifier.logits(x)
    for hook in hooks:
        hook.remove()
    with Domain.of(classifier.network, classifier.statistics, "first").watched() as l_bn:
        logits = classifier.logits(x)
        found = inversion_loss(settings, x, logits, target, l_bn(), student.logits(x))

    gaps = [
        (h.mean((0, 2, 3)) - layer.running_mean).norm()
        + (h.var((0, 2, 3), unbiased=False) - layer.running_var).norm()
        for h, layer in zip(inputs, [tap.layer for tap in classifier.statistics.taps], strict=True)
    ]
    variation = 0.0
    for image in x:
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
            a = image[:, down:, max(0, right) : 16 + min(0, right)]
            b = image[:, : 16 - down, max(0, -right) : 16 - max(0, right)]
            variation += (a - b).norm() / 4
    p, q = expected_logits.softmax(1), student.logits(x).softmax(1)
    m = (p + q) / 2
    js = ((p * (p / m).log()).sum(1) + (q * (q / m).log()).sum(1)).mean() / 2
    expected = (
        0.5 * cross_entropy(expected_logits, target)
        + 2.0 * (10 * gaps[0] + sum(gaps[1:]))
        + 0.03 * variation
        + 0.07 * sum(image.norm() for image in x) / 4
        + 10.0 * (1 - js)
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_iterations_lower_l_bn_and_raise_confidence(classifier: Classifier) -> None:
    def after(iterations: int) -> tuple[float, float]:
        images = deep_inversion(classifier, CLASSES, rng(), replace(FEW, iterations=iterations))
        assert images.shape == (8, 3, 16, 16)
        assert images.min() >= 0
        assert images.max() <= 1
        logits, _ = judged(classifier, images)
        return batch_distance(classifier, images), logits.softmax(1)[
            range(8), CLASSES
        ].mean().item()

    (first_distance, first_confidence), (distance, confidence) = after(1), after(60)
    assert distance < 0.7 * first_distance
    assert confidence > 1.05 * first_confidence


def test_the_generator_decides_the_images(classifier: Classifier) -> None:
    once, again, other = (
        deep_inversion(classifier, CLASSES, rng(seed), replace(FEW, iterations=3))
        for seed in (0, 0, 1)
    )
    assert torch.equal(once, again)
    assert not torch.allclose(once, other, atol=0.1)


def test_the_first_iterations_can_be_at_half_the_size(classifier: Classifier) -> None:
    sizes: list[int] = []
    hook = classifier.network.register_forward_pre_hook(
        lambda _, given: sizes.append(given[0].shape[-1])
    )
    totals: list[tuple[int, int]] = []
    settings = replace(FEW, half_size_iterations=2, iterations=3)
    images = deep_inversion(
        classifier,
        [0, 1],
        rng(),
        settings,
        on_iteration=lambda i, _: totals.append((i.index, i.total)),
    )
    hook.remove()
    assert images.shape == (2, 3, 16, 16)
    assert totals == [(number, 5) for number in range(5)]
    assert set(sizes[:2]) == {8}
    assert sizes[-3:] == [16, 16, 16]


def test_a_student_makes_images_on_which_it_differs(
    classifier: Classifier, student: Classifier
) -> None:
    def difference(competition: float) -> float:
        settings = replace(FEW, competition=competition, bn_weight=0.01, iterations=40)
        images = deep_inversion(classifier, CLASSES, rng(), settings, student)
        p, q = classifier.logits(images).softmax(1), student.logits(images).softmax(1)
        return (p - q).abs().sum(1).mean().item()

    assert difference(100.0) > 1.1 * difference(1e-6)


@pytest.mark.parametrize("px", [32, 95, 96, 224])
def test_defaults_follow_the_size(px: int) -> None:
    settings = DeepInversion.for_px(px)
    assert settings.half_size_iterations == (2000 if px >= 96 else 0)
    assert settings.jitter == (30 if px >= 96 else 4)
    assert (settings == DeepInversion()) is (px < 96)


class Large(nn.Module):
    """A network of 96 px images whose statistics are in large units, as those of deep networks are."""

    def __init__(self, unit: float) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 12, 8, 8, bias=False), nn.BatchNorm2d(12)
        self.patches.weight.data.normal_().mul_(unit)
        self.norm.running_mean.normal_().mul_(30 * unit)
        self.norm.running_var.uniform_(1, 2).mul_(400 * unit**2)
        self.head = nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.head(self.norm(self.patches(x)).relu().mean((2, 3)))


@pytest.mark.parametrize("unit", [1e2, 1e4])
def test_the_class_is_not_drowned_where_statistics_are_large(unit: float) -> None:
    target = torch.arange(6)
    classifier = load_classifier(
        Large(unit).eval(), labels=list("abcdef"), preprocess=Preprocess.squash(96), device="cpu"
    )

    def made(settings: DeepInversion) -> tuple[float, float]:
        settings = replace(settings, iterations=60, half_size_iterations=0, jitter=2)
        images = deep_inversion(classifier, target.tolist(), rng(), settings)
        of_classes = cross_entropy(classifier.logits(images), target).item()
        return of_classes, batch_distance(classifier, images)

    usual = DeepInversion.for_px(96)
    balanced, published, alone = map(made, (usual, usual.paper(96), replace(usual, bn_weight=0.0)))
    assert balanced[0] < alone[0] + 0.1
    assert published[0] > balanced[0] + 0.5
    assert balanced[1] < 0.95 * alone[1]


def test_published_weights_are_those_that_small_images_always_had() -> None:
    assert DeepInversion.paper(32) == DeepInversion(bn_weight=10.0)
    assert not DeepInversion.paper().balance
    assert DeepInversion.paper().bn_weight == 0.05
    assert DeepInversion.for_px(224).balance
