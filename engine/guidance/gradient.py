"""The gradient of a loss by its inputs, also where it passes networks in float16."""

from collections.abc import Callable

import torch
from torch import Tensor

HALF_SCALE = 2.0**16
"""What a loss is multiplied by where a float16 network takes part: float16 ends at 6e-8 and at 65504."""
HALF_LOSS = 2.0**4
"""The largest loss that is multiplied by all of this. Gradients grow with their loss, so a larger one gets less."""
LEAST_SCALE = 2.0**-8
SMALLER = 2.0**-4

Scale = float | Tensor
"""A power of two that a loss is multiplied by on its way back, and its gradient divided by: a number, or ()."""
LossScale = Scale | Callable[[Tensor], Tensor]
"""A scale, or what gives one for the loss's values, as `fitted` does."""


def loss_scale(*dtypes: torch.dtype) -> float:
    """What to multiply a loss by whose gradient passes networks of these dtypes.

    1 for float32, and for bfloat16, which has its exponents.
    """
    return HALF_SCALE if torch.float16 in dtypes else 1.0


def fitted(scale: Scale) -> LossScale:
    """A scale that follows the loss: `scale` up to HALF_LOSS, and for larger values (G,) by as much less.

    It is worked out where the values are, so that the host does not wait for them. At 1 it stays 1.
    """
    if not isinstance(scale, Tensor) and scale == 1:
        return scale

    def of(values: Tensor) -> Tensor:
        largest = values.detach().float().abs().nan_to_num(0.0, 0.0).amax().clamp_min(HALF_LOSS)
        share = HALF_LOSS / largest  # at most 1; of it, the power of two below
        return scale * (share / torch.frexp(share).mantissa / 2)

    return of


def gradient(
    z: Tensor, loss: Callable[[Tensor], Tensor], scale: LossScale = 1.0
) -> tuple[Tensor, Tensor]:
    """The loss's values (G,) and the gradient of their sum by z: (N, ...). The results hold no graph.

    scale: what the loss is multiplied by on its way back, and the gradient divided by.
    """
    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        values = loss(leaf)
        by = scale(values) if callable(scale) else scale
        is_scaled = isinstance(by, Tensor) or by != 1
        (grad,) = torch.autograd.grad(values.sum() * by if is_scaled else values.sum(), leaf)
    return values.detach(), grad / by if is_scaled else grad


def finite_gradient(
    of: Callable[[float], tuple[Tensor, Tensor]], scale: float
) -> tuple[Tensor, Tensor, float]:
    """A gradient by the largest scale, from `scale` down, that leaves it finite, and that scale.

    of: scale -> what `gradient` gives with it.

    A pass that overflowed is repeated: keeping its graph for this would cost memory in every step. If no scale will
    do, the gradient is as it is, and so is the scale. At 1 nothing is looked at; else the host waits for the gradient.
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
