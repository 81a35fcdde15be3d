"""Precision, recall, density, coverage equal the prdc package's; Sajjadi's variant that of scikit-learn's clusters."""

import numpy as np
import pytest
import torch
from prdc import compute_prdc
from sklearn.cluster import KMeans

from engine.errors import ConfigError
from engine.evaluation.neighbours import neighbours, squared_radii
from engine.evaluation.prd import f_score, k_means, prd, prd_curve


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("rows", [64, 350, 2048])
def test_they_equal_prdc(two_sets, k: int, rows: int) -> None:
    samples, reference = two_sets
    expected = compute_prdc(reference.double().numpy(), samples.double().numpy(), k)
    found = neighbours(samples, reference, k, k, rows)
    assert found.precise.double().mean().item() == pytest.approx(expected["precision"], rel=1e-6)
    assert found.recalled.double().mean().item() == pytest.approx(expected["recall"], rel=1e-6)
    assert found.density.mean().item() == pytest.approx(expected["density"], rel=1e-6)
    assert found.covered.double().mean().item() == pytest.approx(expected["coverage"], rel=1e-6)
    assert 0.05 < expected["recall"] < expected["precision"] <= 1  # a case that says something


def test_each_pair_of_metrics_has_its_own_k(two_sets) -> None:
    both, three, five = (neighbours(*two_sets, *ks) for ks in ((3, 5), (3, 3), (5, 5)))
    assert torch.equal(both.precise, three.precise)
    assert torch.equal(both.recalled, three.recalled)
    assert torch.equal(both.density, five.density)
    assert torch.equal(both.covered, five.covered)
    assert not torch.equal(three.precise, five.precise)


def test_a_row_is_not_its_own_neighbour_but_its_double_is() -> None:
    rows = torch.tensor([[0.0], [1.0], [1.0], [4.0]])
    radii = squared_radii(rows, (1, 2), torch.zeros(1, dtype=torch.float64))
    assert radii.tolist() == [[1, 1], [0, 1], [0, 1], [9, 9]]


def test_collapsed_samples_are_precise_and_recall_nothing(two_sets) -> None:
    _, reference = two_sets
    collapsed = reference[:1].repeat(20, 1) + 1e-4 * torch.randn(20, 24)
    found = neighbours(collapsed, reference)
    assert found.precise.all()
    assert found.recalled.sum() <= 1
    assert found.covered.double().mean() < 0.1


def test_too_few_images_for_k() -> None:
    with pytest.raises(
        ConfigError,
        match=r"neighbours is 5 and the folder has 5 images.*Lower `neighbours`, or add",
    ):
        neighbours(torch.randn(5, 2), torch.randn(9, 2), k=5)
    with pytest.raises(ConfigError, match="neighbours is 5 and the reference has 5 images"):
        neighbours(torch.randn(9, 2), torch.randn(5, 2), k=5, density_k=1)
    with pytest.raises(ConfigError, match="density_neighbours is 5 and the reference has 5 images"):
        neighbours(torch.randn(5, 2), torch.randn(5, 2))
    with pytest.raises(ConfigError, match="neighbours is 0"):
        neighbours(torch.randn(9, 2), torch.randn(9, 2), k=0)


@pytest.mark.parametrize(
    ("samples", "reference", "what"), [(4, 9, "the folder"), (9, 4, "the reference")]
)
def test_too_few_images_for_the_clusters(samples: int, reference: int, what: str) -> None:
    """As many clusters as clustered images would put each into its own: 0 of 0 whatever the sets are."""
    sets = torch.randn(samples, 2), torch.randn(reference, 2)
    with pytest.raises(
        ConfigError, match=f"prd_clusters is 8 and {what} has 4 images, expected 1 <= clusters"
    ):
        prd(*sets, clusters=8)
    prd(*sets, clusters=7)


def islands(shares: tuple[float, ...], rows: int, seed: int) -> torch.Tensor:
    """Rows around far-apart centres, each with its share of them."""
    rng = torch.Generator().manual_seed(seed)
    place = torch.cat(
        [torch.full((round(rows * share),), 50.0 * n) for n, share in enumerate(shares)]
    )
    return torch.randn(len(place), 4, generator=rng) + place[:, None]


def test_prd_equals_the_curve_of_scikit_learn_s_clusters() -> None:
    reference, samples = (
        islands((0.5, 0.3, 0.2, 0.0), 200, 1),
        islands((0.8, 0.0, 0.1, 0.1), 200, 2),
    )
    labels = KMeans(4, n_init=5, random_state=0).fit_predict(
        torch.cat([reference, samples]).numpy()
    )
    p, q = (np.bincount(part, minlength=4) / 200 for part in np.split(labels, [200]))
    best = {}
    for beta in (1 / 8, 8):
        best[beta] = 0.0
        for angle in np.linspace(1e-6, np.pi / 2 - 1e-6, 1001):
            slope = np.tan(angle)
            precision = np.minimum(slope * p, q).sum()
            recall = precision / slope
            if precision and recall:
                score = (1 + beta**2) * precision * recall / (beta**2 * precision + recall)
                best[beta] = max(best[beta], score)
    assert prd(samples, reference, clusters=4) == pytest.approx((best[1 / 8], best[8]), rel=1e-3)


def test_prd_of_equal_and_of_disjoint_shares() -> None:
    shares = torch.tensor([0.5, 0.5, 0.0])
    assert f_score(*prd_curve(shares, shares), 8) == pytest.approx(1, rel=1e-3)
    assert prd_curve(shares, torch.tensor([0.0, 0.0, 1.0])).max() == 0


def test_k_means_finds_islands_and_survives_doubles() -> None:
    rng = torch.Generator().manual_seed(0)
    rows = islands((0.4, 0.4, 0.2), 100, 3).double()
    labels = k_means(rows, 3, rng)
    assert [len(part.unique()) for part in labels.split([40, 40, 20])] == [1, 1, 1]
    assert len(labels.unique()) == 3
    assert k_means(torch.ones(6, 2, dtype=torch.float64), 3, rng).unique().tolist() == [0]
