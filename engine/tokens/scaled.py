"""Gradients that pass float16 networks: on the way back they are larger by a power of two, lest they vanish."""

import torch
from torch import Tensor

from engine.guidance.gradient import SMALLER


def scaled_gradient(
    output: Tensor, by: Tensor, weight: Tensor, scale: float
) -> tuple[Tensor, float]:
    """The gradient of sum(weight output) by a leaf, float32, by the largest scale, from `scale` down to 1, that suits.

    One suits if it leaves the gradient finite; at 1 and below nothing is looked at. Returns also the scale that did.
    weight: in the shape of the output.
    """
    while True:
        weights = (weight * scale).to(output.dtype)
        (grad,) = torch.autograd.grad(output, by, weights, retain_graph=scale > 1)
        if scale <= 1 or bool(grad.isfinite().all()):
            return grad.float() / scale, scale
        scale = max(scale * SMALLER, 1.0)
