"""Mixed views hold what they say of two images, and settings that could not mean anything are refused."""

import pytest
import torch

from engine.downstream.mixing import mixed
from engine.errors import ConfigError
from engine.settings.downstream import Distillation


def of_one_number_each(images: int, px: int = 16) -> torch.Tensor:
    """Images (N, 3, px, px) of one number each, so that a mixed pixel tells what it is made of."""
    return torch.arange(images).float().view(-1, 1, 1, 1).expand(-1, 3, px, px)


def test_mixup_blends_two_images_in_any_share() -> None:
    views = torch.zeros(512, 3, 4, 4)
    views[::2] = 1.0
    blended = mixed(views, "mixup", torch.Generator().manual_seed(0))
    amounts = blended[:, 0, 0, 0]
    assert torch.equal(blended, amounts.view(-1, 1, 1, 1).expand_as(blended))  # of whole images
    between = amounts[(amounts > 0) & (amounts < 1)]
    assert len(between) > 200  # the others met one of their own number
    assert abs(between.mean() - 0.5) < 0.05
    assert abs(between.std() - 12**-0.5) < 0.03  # of an even draw


def test_cutmix_puts_one_box_of_another_image_into_each() -> None:
    views = of_one_number_each(64)
    cut = mixed(views, "cutmix", torch.Generator().manual_seed(0))
    shares = []
    for number, image in enumerate(cut[:, 0]):
        foreign = image != number
        assert len(image.unique()) <= 2
        assert torch.equal(foreign, torch.outer(foreign.any(1), foreign.any(0)))  # a box
        shares.append(foreign.float().mean().item())
    assert 0.35 < sum(shares) / len(shares) < 0.6
    assert max(shares) > 0.85


def test_both_takes_turns_and_the_draw_is_the_seeds() -> None:
    views = of_one_number_each(8)
    rng, again = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    drawn = [mixed(views, "both", rng) for _ in range(24)]
    whole = [bool((image == image.round()).all()) for image in drawn]
    assert 4 < sum(whole) < 20
    assert all(torch.equal(image, mixed(views, "both", again)) for image in drawn)


def test_stored_labels_cannot_be_mixed() -> None:
    with pytest.raises(ConfigError, match="mix is 'both' and soft_labels is 'manifest', expected"):
        Distillation(mix="both", soft_labels="manifest")
