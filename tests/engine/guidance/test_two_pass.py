"""The gradient of a large batch from small ones."""

import pytest
import torch
from torch import Tensor, nn

from engine.classifiers import Classifier
from engine.errors import ConfigError
from engine.guidance.domain import Domain
from engine.guidance.objective import Objective
from engine.guidance.two_pass import two_pass
from engine.settings import Alignment

SETTINGS = [Alignment(), Alignment(norm="l2", layers="first")]


def domain_of(classifier: Classifier, alignment: Alignment) -> Domain:
    return Domain.of(classifier.network, classifier.statistics, alignment.layers, alignment.norm)


def decode(z: Tensor) -> Tensor:
    """A nonlinear stand-in for a decoder, (N, 4, h, w) -> (N, 3, h, w)."""
    return (z[:, :3] + z[:, 3:].sin()).sigmoid()


@pytest.mark.parametrize("alignment", SETTINGS, ids=["ours", "l2"])
@pytest.mark.parametrize("micro_batch", [1, 3, 4, 7, 100])
def test_equals_one_pass_over_the_whole_batch(
    classifier: Classifier, alignment: Alignment, micro_batch: int
) -> None:
    """In float64, where only rounding is left. The network itself runs on 16 x 16 images, so nothing resizes."""
    network = classifier.network.double()
    domain = domain_of(classifier, alignment)
    z = torch.randn(7, 4, 16, 16, dtype=torch.float64)

    def forward(rows: Tensor, start: int) -> Tensor:
        return network(decode(rows))

    whole = two_pass(z, forward, domain, len(z))
    loss, grad = two_pass(z, forward, domain, micro_batch)
    torch.testing.assert_close(loss, whole[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(grad, whole[1], rtol=1e-10, atol=1e-12 * float(whole[1].abs().max()))
    assert grad.abs().max() > 0
    assert not loss.requires_grad
    assert not grad.requires_grad


@pytest.mark.parametrize("fused", [True, False])
def test_equals_the_guidance_loss_of_a_classifier(classifier: Classifier, fused: bool) -> None:
    z, alignment = torch.randn(6, 4, 20, 20), Alignment()
    expected = Objective(classifier, alignment, decode, fused).value_and_grad(z)
    got = two_pass(
        z,
        lambda rows, start: classifier.logits(decode(rows)),
        domain_of(classifier, alignment),
        4,
    )
    torch.testing.assert_close(got[0], expected[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(
        got[1], expected[1], rtol=1e-3, atol=1e-4 * float(expected[1].abs().max())
    )


def test_the_scale_fits_the_whole_loss(classifier: Classifier) -> None:
    """Also what is added to L_BN, in parts as in one pass."""
    z, seen = torch.randn(6, 4, 16, 16), []

    def scale(values: Tensor) -> Tensor:
        seen.append(values.detach())
        return torch.ones(())

    for size in (6, 4):
        values, _ = two_pass(
            z,
            lambda rows, start: classifier.logits(decode(rows)),
            domain_of(classifier, Alignment()),
            size,
            scale,
            lambda output, start: 100.0 * len(output) + output.sum(),
        )
        assert torch.equal(values, seen[-1])
    assert seen[0] > 600
    torch.testing.assert_close(seen[1], seen[0], rtol=1e-5, atol=0)


def test_no_more_than_a_micro_batch_has_a_graph(classifier: Classifier) -> None:
    rows: list[tuple[int, int, bool]] = []

    def forward(part: Tensor, start: int) -> Tensor:
        rows.append((start, len(part), part.requires_grad))
        return classifier.logits(decode(part))

    two_pass(torch.randn(5, 4, 16, 16), forward, domain_of(classifier, Alignment()), 2)
    places = [(0, 2), (2, 2), (4, 1)]
    assert rows == [(*place, graph) for graph in (False, True) for place in places]
    assert all(
        not isinstance(layer, nn.BatchNorm2d) or "forward" not in vars(layer)
        for layer in classifier.network.modules()
    )


def test_a_micro_batch_of_nothing_is_refused(classifier: Classifier) -> None:
    domain = domain_of(classifier, Alignment())
    with pytest.raises(ConfigError, match="micro_batch is 0, expected at least 1"):
        two_pass(torch.randn(1, 4, 16, 16), classifier.logits, domain, 0)
