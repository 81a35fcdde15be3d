"""The guidance gradient of a batch, a part at a time."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.classifiers.cifar_resnet import CifarResNet
from engine.guidance.in_parts import gradient_in_parts
from engine.settings import Alignment


@pytest.fixture
def classifier(tiny_resnet: CifarResNet) -> Classifier:
    return load_classifier(
        tiny_resnet, labels=list("abcdefg"), preprocess=Preprocess.squash(16), device="cpu"
    )


def decode(z: Tensor) -> Tensor:
    """A nonlinear stand-in for a decoder, (N, 4, h, w) -> (N, 3, h, w)."""
    return (z[:, :3] + z[:, 3:].sin()).sigmoid()


@pytest.mark.parametrize(
    "alignment",
    [Alignment(), Alignment(class_weight=0.0), Alignment(statistics="image"), Alignment.paper()],
    ids=str,
)
@pytest.mark.parametrize("part", [4, 5])
def test_a_batch_of_32_in_parts_of_4_has_the_gradient_of_32(
    classifier: Classifier, alignment: Alignment, part: int
) -> None:
    z, classes = torch.randn(32, 4, 16, 16), torch.arange(32) % 7
    of = gradient_in_parts(classifier, alignment, decode, classes)
    values, grad = of(z, 32, 1.0)
    found, in_parts = of(z, part, 1.0)
    torch.testing.assert_close(found, values, rtol=1e-4, atol=0)
    torch.testing.assert_close(in_parts, grad, rtol=0, atol=2e-4 * float(grad.abs().max()))
    assert grad.abs().max() > 0


def test_each_part_is_told_its_own_classes(classifier: Classifier) -> None:
    alignment = Alignment(class_weight=5.0)
    z = torch.randn(6, 4, 16, 16)
    one, other = (
        gradient_in_parts(classifier, alignment, decode, torch.tensor(c))
        for c in ([0] * 6, [0] * 4 + [3] * 2)
    )
    same, changed = one(z, 2, 1.0)[1], other(z, 2, 1.0)[1]
    torch.testing.assert_close(same[:4], changed[:4], rtol=1e-4, atol=1e-7)
    assert not torch.allclose(same[4:], changed[4:], rtol=1e-2)


def test_a_scaled_loss_gives_the_same_gradient(classifier: Classifier) -> None:
    z, classes = torch.randn(5, 4, 16, 16), torch.arange(5)
    of = gradient_in_parts(classifier, replace(Alignment(), class_weight=1.0), decode, classes)
    for part in (2, 5):
        torch.testing.assert_close(of(z, part, 2.0**10), of(z, part, 1.0), rtol=1e-4, atol=1e-7)
