"""What guidance descends: its terms, its gradient, and that gradient a part of the images at a time."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.classifiers.statistics import Statistics, Tap
from engine.errors import ConfigError, ModelError
from engine.guidance.objective import Objective
from engine.settings import Alignment
from engine.types import Moments


def decode(z: Tensor) -> Tensor:
    """A nonlinear stand-in for a decoder, (N, 4, h, w) -> (N, 3, h, w)."""
    return (z[:, :3] + z[:, 3:].sin()).sigmoid()


@pytest.mark.parametrize(
    "alignment",
    [
        Alignment(),
        Alignment(class_weight=0.0),
        Alignment(domain_weight=0.0),
        Alignment(domain_weight=2.0, statistics="image"),
        Alignment.paper(),
    ],
    ids=["ours", "domain-alone", "class-alone", "image", "paper"],
)
@pytest.mark.parametrize("part", [4, 5])
@pytest.mark.parametrize("fused", [True, False])
def test_a_batch_of_32_in_parts_of_4_has_the_gradient_of_32(
    classifier: Classifier, alignment: Alignment, part: int, fused: bool
) -> None:
    z, classes = torch.randn(32, 4, 16, 16), torch.arange(32) % 7
    objective = Objective(classifier, alignment, decode, fused)
    values, grad = objective.value_and_grad(z, classes)
    found, in_parts = objective.value_and_grad(z, classes, part)
    torch.testing.assert_close(found, values, rtol=1e-4, atol=0)
    torch.testing.assert_close(in_parts, grad, rtol=0, atol=2e-4 * float(grad.abs().max()))
    assert grad.abs().max() > 0


def test_each_part_is_told_its_own_classes(classifier: Classifier) -> None:
    alignment = Alignment(class_weight=5.0)
    z = torch.randn(6, 4, 16, 16)
    objective = Objective(classifier, alignment, decode)
    same, changed = (
        objective.value_and_grad(z, torch.tensor(classes), 2)[1]
        for classes in ([0] * 6, [0] * 4 + [3] * 2)
    )
    torch.testing.assert_close(same[:4], changed[:4], rtol=1e-4, atol=1e-7)
    assert not torch.allclose(same[4:], changed[4:], rtol=1e-2)


def test_a_scaled_loss_gives_the_same_gradient(classifier: Classifier) -> None:
    z, classes = torch.randn(5, 4, 16, 16), torch.arange(5)
    objective = Objective(classifier, Alignment(class_weight=1.0), decode)
    for part in (2, 5):
        scaled, plain = (
            objective.value_and_grad(z, classes, part, scale) for scale in (2.0**10, 1.0)
        )
        torch.testing.assert_close(scaled, plain, rtol=1e-4, atol=1e-7)


def test_losses_of_single_images_and_of_their_batch_differ_as_they_should(classifier) -> None:
    images = torch.rand(4, 3, 16, 16)
    paper = Objective(classifier, Alignment.paper()).value(images)
    assert paper.shape == (4,)
    alone = [
        Objective(classifier, Alignment.paper()).value(images[n : n + 1]).item() for n in range(4)
    ]
    assert paper.tolist() == pytest.approx(alone, rel=1e-5)
    batch = Objective(classifier, Alignment(layers="uniform", norm="l2")).value(images)
    assert batch.shape == (1,)
    assert (
        batch.item() < paper.mean().item()
    )  # norms are convex: a batch is nearer than its images on average


@pytest.mark.parametrize("statistics", ["batch", "image"])
@pytest.mark.parametrize("fused", [True, False])
def test_the_class_weighs_in_where_it_is_told(classifier, statistics: str, fused: bool) -> None:
    images, classes = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 1, 0])
    both = Alignment(class_weight=2.0, statistics=statistics)
    alone = Objective(classifier, both, fused=fused).value(images)
    losses = cross_entropy(classifier.logits(images), classes, reduction="none")
    expected = alone + 2.0 * (losses if statistics == "image" else losses.mean())
    torch.testing.assert_close(
        Objective(classifier, both, fused=fused).value(images, classes), expected
    )
    paper = Alignment.paper()
    torch.testing.assert_close(
        Objective(classifier, paper, fused=fused).value(images, classes),
        Objective(classifier, paper).value(images),
    )


@pytest.mark.parametrize("norm", ["l2", "l2_squared"])
def test_the_domain_has_its_weight(classifier: Classifier, norm: str) -> None:
    images = torch.rand(4, 3, 16, 16)
    one, three = (
        Objective(classifier, Alignment(domain_weight=weight, norm=norm)).value(images)
        for weight in (1.0, 3.0)
    )
    torch.testing.assert_close(three, 3 * one, rtol=1e-5, atol=0)


@pytest.fixture
def without() -> Classifier:
    """A classifier that normalises by layer, as a ViT does: nothing is known of its training images."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 4, 4), nn.GroupNorm(1, 4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )
    return load_classifier(
        network, labels=list("abc"), preprocess=Preprocess.squash(16), device="cpu"
    )


def test_without_statistics_the_class_alone_can_be_descended(without: Classifier) -> None:
    with pytest.raises(
        ModelError,
        match=r"guidance by statistics needs .* 'Sequential' has no BatchNorm layers, expected .*domain_weight` to 0",
    ):
        Objective(without, Alignment())
    images, classes = torch.rand(5, 3, 16, 16), torch.tensor([0, 1, 2, 0, 1])
    objective = Objective(without, Alignment(domain_weight=0.0, class_weight=0.5))
    value, grad = objective.value_and_grad(images, classes)
    leaf = images.clone().requires_grad_()
    expected = 0.5 * cross_entropy(without.logits(leaf), classes)
    torch.testing.assert_close(value, expected.detach().reshape(1))
    torch.testing.assert_close(grad, torch.autograd.grad(expected, leaf)[0])
    with pytest.raises(ConfigError, match="no classes and no weight on the domain, expected one"):
        objective.value(images)


def test_weights_that_leave_nothing_to_descend_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"is 0 and so is `class_weight`, expected one above 0.*method 'plain'"
    ):
        Alignment(domain_weight=0, class_weight=0)
    with pytest.raises(ConfigError, match="domain_weight is -1, expected a finite number >= 0"):
        Alignment(domain_weight=-1)


def test_statistics_of_any_layer_are_measured_along_their_own_axis() -> None:
    """As of a ViT's tokens: channels last."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.norm = nn.Conv2d(3, 6, 4, 4), nn.LayerNorm(6)
            self.head = nn.Linear(6, 3)

        def tokens(self, x: Tensor) -> Tensor:
            return self.patches(x).flatten(2).transpose(1, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(self.tokens(x)).mean(1))

    network = Tokens()
    plain = load_classifier(
        network, labels=list("abc"), preprocess=Preprocess.squash(16), device="cpu"
    )
    stored = Moments(torch.randn(6), torch.rand(6) + 0.5)
    known = Statistics(source="file", taps=(Tap(plain.network.norm, -1),), stored=(stored,))
    classifier = replace(plain, statistics=known)
    images = torch.rand(4, 3, 16, 16)
    tokens = network.tokens(classifier.preprocess(images))
    expected = (tokens.mean((0, 1)) - stored.mean).norm() + (
        tokens.var((0, 1), correction=0) - stored.var
    ).norm()
    settings = Alignment(layers="uniform", norm="l2", class_weight=0)
    objective = Objective(classifier, settings)
    torch.testing.assert_close(objective.value(images), expected.detach().reshape(1))
    values, grad = objective.value_and_grad(images)
    found, in_parts = objective.value_and_grad(images, at_once=3)
    torch.testing.assert_close(found, values)
    torch.testing.assert_close(in_parts, grad, rtol=1e-4, atol=1e-6)
    assert grad.abs().max() > 0
    by_image = Objective(classifier, replace(settings, statistics="image")).value(images)
    alone = [objective.value(images[n : n + 1]) for n in range(4)]
    torch.testing.assert_close(by_image, torch.cat(alone))
    assert not any(part._forward_pre_hooks for part in classifier.network.modules())
