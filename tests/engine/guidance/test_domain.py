"""L_BN and the moments that it compares."""

import pytest
import torch
from torch import nn

from engine.classifiers import Preprocess, load_classifier
from engine.classifiers.cifar_resnet import CifarResNet
from engine.classifiers.statistics import Statistics
from engine.errors import ConfigError, ModelError
from engine.guidance.domain import Domain, judged, layer_weights, moment_distance
from engine.guidance.moments import recording_moments
from engine.guidance.objective import Objective
from engine.settings import Alignment
from engine.types import Moments

LABELS = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")


def by_hand(network: CifarResNet, pixels: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Moments of each BatchNorm's input, from the layers called one by one."""
    taken = []

    def bn(layer: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
        taken.append((x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)))
        return layer(x)

    x = bn(network.bn1, network.conv1(pixels)).relu()
    for stage in (network.layer1, network.layer2, network.layer3):
        for block in stage:
            y = bn(block.bn1, block.conv1(x)).relu()
            x = (bn(block.bn2, block.conv2(y)) + block.shortcut(x)).relu()
    return taken


def test_recorded_moments_are_those_of_the_layers_inputs_in_call_order(
    tiny_resnet: CifarResNet, classifier
) -> None:
    images = torch.rand(5, 3, 16, 16)
    pixels = classifier.preprocess(images)
    with recording_moments(classifier.statistics.taps) as taken:
        classifier.logits(images)
        measured = list(taken)
    assert len(measured) == len(classifier.statistics.stored) == 7
    for found, (mean, var) in zip(measured, by_hand(tiny_resnet, pixels), strict=True):
        torch.testing.assert_close(found.mean, mean)
        torch.testing.assert_close(found.var, var)


def test_moments_by_image_are_those_of_each_image_alone(classifier) -> None:
    images = torch.rand(3, 3, 16, 16)
    with recording_moments(classifier.statistics.taps, per_image=True) as taken:
        classifier.logits(images)
        together = list(taken)
    for number in range(3):
        with recording_moments(classifier.statistics.taps) as taken:
            classifier.logits(images[number : number + 1])
            for alone, all_of_them in zip(taken, together, strict=True):
                torch.testing.assert_close(all_of_them.mean[number], alone.mean)
                torch.testing.assert_close(all_of_them.var[number], alone.var)


def test_hooks_are_removed_and_moments_dropped_even_on_an_error(classifier) -> None:
    with pytest.raises(RuntimeError), recording_moments(classifier.statistics.taps) as taken:  # noqa: PT012
        classifier.logits(torch.rand(1, 3, 16, 16))
        raise RuntimeError
    assert not taken
    assert not any(
        layer._forward_pre_hooks for layer in [tap.layer for tap in classifier.statistics.taps]
    )


@pytest.mark.parametrize(
    ("norm", "layers", "expected"),
    [
        ("l2", "uniform", 5.0 + 2.0 + 1.0 + 3.0),
        ("l2_squared", "uniform", 25.0 + 4.0 + 1.0 + 9.0),
        ("l2", "first", 50.0 + 20.0 + 1.0 + 3.0),
        ("l2", "relative", 5.0 / 2.0 + 2.0 / 8**0.5 + 1.0 / 3.0 + 3.0 / 9.0),
    ],
)
def test_the_loss_is_the_weighted_sum_of_norms(norm: str, layers: str, expected: float) -> None:
    stored = [
        Moments(torch.zeros(2), torch.full((2,), 2.0)),
        Moments(torch.zeros(1), torch.tensor([9.0])),
    ]
    measured = [
        Moments(torch.tensor([3.0, 4.0]), torch.tensor([2.0, 4.0])),
        Moments(torch.tensor([1.0]), torch.tensor([12.0])),
    ]
    known = Statistics(source="test", taps=(), stored=tuple(stored))
    loss = moment_distance(measured, stored, layer_weights(known, layers), norm)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    term = Domain.of(nn.Identity(), known, layers, norm)
    assert term.loss(measured).item() == pytest.approx(expected, rel=1e-6)
    assert term.times(3.0).loss(measured).item() == pytest.approx(3 * expected, rel=1e-6)


def test_judged_gives_logits_and_the_published_distance_of_each_image(classifier) -> None:
    images = torch.rand(3, 3, 16, 16)
    logits, distances = judged(classifier, images)
    torch.testing.assert_close(logits, classifier.logits(images))
    torch.testing.assert_close(distances, Objective(classifier, Alignment.paper()).value(images))
    assert not logits.requires_grad


def test_without_statistics_judged_gives_logits_and_no_distance(tiny_resnet: CifarResNet) -> None:
    classifier = load_classifier(
        tiny_resnet,
        labels=LABELS,
        preprocess=Preprocess.squash(16),
        device="cpu",
        statistics="none",
    )
    images = torch.rand(3, 3, 16, 16)
    logits, distances = judged(classifier, images)
    torch.testing.assert_close(logits, classifier.logits(images))
    assert distances.isnan().tolist() == [True] * 3


def test_a_loss_before_any_pass_is_an_error(classifier) -> None:
    domain = Domain.of(classifier.network, classifier.statistics)
    with pytest.raises(ModelError, match="no pass to take the loss of"), domain.watched() as l_bn:
        l_bn()


def test_a_classifier_without_statistics_is_refused_by_name() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    reads = Preprocess.squash(8, mean=(0.5,) * 3, std=(0.5,) * 3)
    known = load_classifier(net, labels=["a", "b"], preprocess=reads, device="cpu").statistics
    with pytest.raises(ConfigError, match=r"statistics is of type Absent, expected those of Batch"):
        Domain.of(net, known)
