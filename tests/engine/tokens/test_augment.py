"""Random views: still images, differentiable, the same from the same seed, and within their bounds."""

import torch

from engine.tokens.augment import SHIFT, ZOOM, augmented


def test_views_are_images_that_a_seed_repeats():
    images = torch.rand(6, 3, 16, 20).requires_grad_()
    views = augmented(images, torch.Generator().manual_seed(1))
    again = augmented(images, torch.Generator().manual_seed(1))
    other = augmented(images, torch.Generator().manual_seed(2))
    assert views.shape == images.shape
    assert 0 <= views.min() <= views.max() <= 1
    assert torch.equal(views, again)
    assert not torch.allclose(views, other, atol=1e-2)
    assert torch.autograd.grad(views.sum(), images)[0].norm() > 0


def test_a_flat_image_stays_flat():
    flat = torch.full((4, 3, 8, 8), 0.25)
    torch.testing.assert_close(augmented(flat, torch.Generator().manual_seed(0)), flat)


def test_flips_and_bounds_are_those_that_are_said():
    """On a ramp from 0 at the left edge to 1 at the right, a view's slope is its side and its middle its centre."""
    width, number = 64, 400
    ramp = ((torch.arange(width) + 0.5) / width).expand(number, 3, width, width)
    views = augmented(ramp, torch.Generator().manual_seed(0))[:, 0, width // 2]
    slope = (views[:, 40] - views[:, 24]) / 16 * width
    centre = (views[:, 31] + views[:, 32]) / 2
    assert ZOOM[0] - 1e-3 < slope.abs().min() < ZOOM[0] + 0.02
    assert ZOOM[1] - 0.02 < slope.abs().max() < ZOOM[1] + 1e-3
    assert 0.4 < (slope < 0).float().mean() < 0.6
    assert SHIFT - 0.02 < (centre - 0.5).abs().max() < SHIFT + 1e-3
