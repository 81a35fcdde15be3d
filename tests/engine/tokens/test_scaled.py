"""Gradients through float16: scaled ones neither vanish nor overflow."""

import torch

from engine.guidance.gradient import HALF_SCALE
from engine.tokens.scaled import scaled_gradient


def through_half(x: torch.Tensor, slope: float) -> torch.Tensor:
    return (x.half() * slope).float().sum()


def test_what_would_vanish_is_found_with_a_scale():
    x = torch.ones(3).requires_grad_()
    for scale, expected in ((1.0, 0.0), (HALF_SCALE, 1e-4 * 1e-6)):
        grad, kept = scaled_gradient(through_half(x, 1e-4), x, torch.tensor(1e-6), scale)
        torch.testing.assert_close(grad, torch.full((3,), expected), rtol=0.05, atol=0)
        assert kept == scale


def test_what_would_overflow_gets_a_smaller_scale():
    x = torch.ones(3).requires_grad_()
    grad, kept = scaled_gradient(through_half(x, 100.0), x, torch.tensor(1.0), HALF_SCALE)
    torch.testing.assert_close(grad, torch.full((3,), 100.0), rtol=1e-3, atol=0)
    assert 1 < kept <= HALF_SCALE / 100


def test_a_gradient_that_is_infinite_stays_so_at_1():
    x = torch.zeros(2).requires_grad_()
    grad, kept = scaled_gradient(x.sqrt().sum(), x, torch.tensor(1.0), HALF_SCALE)
    assert (grad.isinf().all(), kept) == (True, 1.0)
