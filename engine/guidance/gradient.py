"""The gradient of a loss by its inputs, also where it passes networks in float16."""

from collections.abc import Callable

import torch
from torch import Tensor

HALF_SCALE = 2.0**16
"""What a loss is multiplied by first where a float16 network takes part: float16 ends at 6e-8 and at 65504."""
LEAST_SCALE = 2.0**-8
SMALLER = 2.0**-4


def loss_scale(*dtypes: torch.dtype) -> float:
    """What to multiply a loss by whose gradient passes networks of these dtypes.

    1 for float32, and for bfloat16, which has its exponents.
    """
    return HALF_SCALE if torch.float16 in dtypes else 1.0


def gradient(
    z: Tensor, loss: Callable[[Tensor], Tensor], scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The loss's values (G,) and the gradient of their sum by z: (N, ...). The results hold no graph.

    scale: a power of two that the loss is multiplied by on its way back, and the gradient divided by.
    """
    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        values = loss(leaf)
        (grad,) = torch.autograd.grad(values.sum() * scale if scale != 1 else values.sum(), leaf)
    return values.detach(), grad / scale if scale != 1 else grad


def finite_gradient(
    of: Callable[[float], tuple[Tensor, Tensor]], scale: float
) -> tuple[Tensor, Tensor, float]:
    """A gradient by the largest scale, from `scale` down, that leaves it finite, and that scale.

    of: scale -> what `gradient` gives with it.

    A pass that overflowed is repeated: keeping its graph for this would cost memory in every step. If no scale will
    do, the gradient is as it is, and so is the scale. At 1 nothing is looked at.
    """
    values, grad = of(scale)
    if scale == 1:
        return values, grad, scale
    tried, found = scale, grad
    while not bool(found.isfinite().all()):
        tried *= SMALLER
        if tried < LEAST_SCALE:
            return values, grad, scale
        values, found = of(tried)
    return values, found, tried
