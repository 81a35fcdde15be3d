"""Total variation, norm and competition against versions written another way."""

import math

import pytest
import torch
from scipy.spatial.distance import jensenshannon

from engine.methods.penalties import competition, image_norm, total_variation


def test_total_variation_is_zero_for_flat_images_and_counts_each_direction() -> None:
    assert total_variation(torch.full((2, 3, 5, 5), 0.7)) == 0
    spot = torch.zeros(1, 1, 3, 3)
    spot[0, 0, 1, 1] = 2.0  # it differs from two neighbours in each of the four directions, by 2
    assert total_variation(spot) == pytest.approx(4 * math.sqrt(2 * 2.0**2))
    stripe = torch.zeros(1, 1, 2, 3)
    stripe[..., 1] = 1.0  # right: 4 gaps; down: none; each diagonal: 2
    assert total_variation(stripe) == pytest.approx(2.0 + 2 * math.sqrt(2))


def test_norms_are_of_each_image_and_averaged() -> None:
    x = torch.stack([torch.ones(3, 4, 4), 3 * torch.ones(3, 4, 4)])
    assert image_norm(x) == pytest.approx((math.sqrt(48) + 3 * math.sqrt(48)) / 2)
    noise = torch.randn(3, 3, 6, 6)
    assert total_variation(noise) == pytest.approx(
        sum(total_variation(image[None]).item() for image in noise) / 3, rel=1e-5
    )


def test_competition_is_one_minus_scipys_divergence() -> None:
    teacher, student = 3 * torch.randn(5, 7), 3 * torch.randn(5, 7)
    distance = jensenshannon(
        teacher.softmax(1).numpy(), student.softmax(1).numpy(), axis=1
    )  # its root
    assert competition(teacher, student).item() == pytest.approx(1 - (distance**2).mean(), abs=1e-5)


def test_competition_falls_from_agreement_to_disjoint_certainty() -> None:
    sure = torch.tensor([[90.0, 0.0, 0.0]])
    assert competition(sure, sure).item() == pytest.approx(1.0)
    assert competition(sure, sure.flip(1)).item() == pytest.approx(1 - math.log(2), abs=1e-5)
