"""FID, KID and the Inception score equal torchmetrics' and scipy's on the same features, and closed forms elsewhere."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from engine.errors import ConfigError
from engine.evaluation.metrics import blocks, fid, gaussian, inception_score, kid


def handed(width: int) -> nn.Module:
    """A feature extractor for features that are there already."""
    extractor = nn.Identity()
    extractor.num_features = width
    return extractor


def test_fid_equals_torchmetrics(two_sets) -> None:
    samples, reference = two_sets
    metric = FrechetInceptionDistance(handed(24)).set_dtype(torch.float64)
    metric.update(reference.double(), real=True)
    metric.update(samples.double(), real=False)
    assert fid(gaussian(samples), gaussian(reference)) == pytest.approx(
        metric.compute().item(), rel=1e-6
    )


def test_fid_equals_the_matrix_square_root(two_sets) -> None:
    samples, reference = (part.double().numpy() for part in two_sets)
    covariances = [np.cov(part, rowvar=False) for part in (samples, reference)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    gap = samples.mean(0) - reference.mean(0)
    expected = gap @ gap + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert fid(gaussian(two_sets[0]), gaussian(two_sets[1])) == pytest.approx(expected, rel=1e-6)


def test_fid_of_a_shift_is_its_square_however_far_from_zero(two_sets) -> None:
    far = two_sets[0].double() + 1e4
    assert fid(gaussian(far), gaussian(far)) == pytest.approx(0, abs=1e-9)
    assert fid(gaussian(far + 0.5), gaussian(far)) == pytest.approx(24 * 0.25, rel=1e-9)


def test_fid_of_fewer_rows_than_features() -> None:
    """Covariances without full rank: eigenvalues that rounding made negative must not become NaN."""
    few, others = torch.randn(2, 6, 40)
    expected = scipy.linalg.sqrtm(
        np.cov(few.double(), rowvar=False) @ np.cov(others.double(), rowvar=False)
    )
    traces = gaussian(few).covariance.trace() + gaussian(others).covariance.trace()
    gap = (few.double().mean(0) - others.double().mean(0)).square().sum()
    found = fid(gaussian(few), gaussian(others))
    assert found == pytest.approx((gap + traces - 2 * np.trace(expected).real).item(), rel=1e-3)


def test_weights_count_rows_as_copies_do(two_sets) -> None:
    rows, weights = two_sets[0][:5], torch.tensor([2.0, 0, 1, 3, 1])
    copies = gaussian(rows.repeat_interleave(weights.long(), dim=0))
    weighted = gaussian(rows, weights)
    assert weighted.rows == 7
    torch.testing.assert_close(weighted.mean, copies.mean)
    torch.testing.assert_close(weighted.covariance, copies.covariance)


def test_blocks_cover_each_row_once() -> None:
    rows = torch.arange(9.0)[:, None]
    for size in (1, 4, 8, 9, 10):
        assert torch.cat([block for _, block in blocks(rows, size)]).tolist() == rows.tolist()


def test_kid_equals_torchmetrics_on_the_same_subsets(two_sets) -> None:
    samples, reference = two_sets
    metric = KernelInceptionDistance(handed(24), subsets=12, subset_size=100).set_dtype(
        torch.float64
    )
    metric.update(reference.double(), real=True)
    metric.update(samples.double(), real=False)
    torch.manual_seed(5)  # it draws from the global generator, the reference first
    mean, std = metric.compute()
    found = kid(samples, reference, subsets=12, subset_size=100, seed=5)
    assert found.mean == pytest.approx(mean.item(), rel=1e-6)
    assert found.std == pytest.approx(std.item(), rel=1e-6)
    assert found.subset_size == 100


def test_kid_by_hand() -> None:
    """Two features of two rows each, summed by hand: k = (a.b / 1 + 1)^3."""
    samples, reference = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]])
    within = (1.0 + 1.0 + 27.0 + 27.0) / 2
    across = (1.0 + 1.0 + 8.0 + 27.0) / 4
    assert kid(samples, reference).mean == pytest.approx(within - 2 * across)


def test_a_subset_is_never_larger_than_a_set(two_sets) -> None:
    found = kid(*two_sets, subsets=3, subset_size=1000)
    assert found.subset_size == 350
    assert found.std > 0  # the samples are more, so their subsets differ


def test_inception_score_equals_torchmetrics() -> None:
    logits = 3 * torch.randn(301, 7)
    metric = InceptionScore(handed(7), splits=1).set_dtype(torch.float64)
    metric.update(logits.double())
    assert inception_score(logits).item() == pytest.approx(metric.compute()[0].item(), rel=1e-6)


def test_inception_score_at_its_ends() -> None:
    sure = 1000 * torch.eye(7).repeat(3, 1)  # probabilities of exactly 0: 0 log 0 is 0
    assert inception_score(sure).item() == pytest.approx(7)
    assert inception_score(torch.zeros(5, 7)).item() == pytest.approx(1)
    weights = torch.tensor([[1.0] * 21, [3.0] + [0.0] * 20])
    assert inception_score(sure, weights).tolist() == pytest.approx([7, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gaussian(torch.zeros(1, 3)), "a set has 1 image, expected at least 2"),
        (lambda: kid(torch.zeros(4, 3), torch.zeros(4, 2)), "3 features each and the reference 2"),
        (lambda: kid(torch.zeros(1, 3), torch.zeros(4, 3)), "100 subsets of 1 image,"),
        (
            lambda: fid(gaussian(torch.randn(4, 3)), gaussian(torch.randn(4, 2))),
            "must come from the same network",
        ),
    ],
)
def test_sets_that_cannot_be_compared(call, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()
