"""The kernels against float64: every op with its gradient, in every dtype and layout."""

from collections.abc import Callable, Sequence

import torch
from ddis_kernels import (
    AlignmentTarget,
    Moments,
    alignment_loss,
    bn_act_moments,
    bn_act_moments_reference,
    channel_moments,
    channel_moments_grouped,
    channel_moments_reference,
    merge_moments,
    merge_moments_reference,
)
from ddis_kernels.alignment_coefficients import alignment_loss_reference
from networks import LAYOUTS
from torch import Tensor
from torch.testing import assert_close

Shape = tuple[int, ...]
SHAPES: tuple[Shape, ...] = (
    (1, 1, 1, 1),
    (3, 5, 7, 7),
    (4, 12, 14, 14),
    (2, 33, 14, 14),
    (16, 64, 56, 56),
    (1, 512, 7, 7),
    (2, 2048, 7, 7),
    (2, 3, 129, 127),
    (32, 24, 56, 56),
    (1, 2, 600, 600),
)
"""Maps that reach every tile: rows of neighbours that a vector of 8, of 4 or none divides, narrow and wide ones, and
planes that are larger than what rows are divided in."""
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Largest error over the largest value."""
LAYERS = (("none", False), ("relu", False), ("silu", True))
"""Activation, and whether moments are of each image."""
NEAR_ZERO = 1e-3
"""ReLU's gradient is not compared where rounding may decide on which side of zero its argument is."""


def worst_error(device: torch.device, shape: Shape, dtype: torch.dtype, layout: str) -> float:
    """The largest relative error at one feature map. Raises AssertionError for one above TOLERANCE."""
    worst = 0.0
    for activation, per_image in LAYERS:
        x = (torch.randn(shape, device=device) + 1).to(dtype)
        error = layer_error(x.to(memory_format=LAYOUTS[layout]), activation, per_image)
        if not error <= TOLERANCE[dtype]:  # NaN is wrong, too
            raise AssertionError(
                f"wrong: {shape} {dtype} {layout} {activation}: "
                f"error {error:.1e} > {TOLERANCE[dtype]:.0e}"
            )
        worst = max(worst, error)
    return worst


def layer_error(x: Tensor, activation: str, per_image: bool) -> float:
    """The largest relative error of `bn_act_moments` and `channel_moments`, with their gradients."""
    scale, shift = (torch.randn(x.shape[1], device=x.device) for _ in range(2))
    layer = scale, shift, activation, per_image
    got = with_gradient(bn_act_moments, x, *layer)
    exact = with_gradient(bn_act_moments_reference, x.double(), *layer)
    if activation == "relu":
        over_channels = (1, -1, *[1] * (x.dim() - 2))
        z = x.double() * scale.double().view(over_channels) + shift.double().view(over_channels)
        got[-1] = torch.where(z.abs() < NEAR_ZERO, exact[-1], got[-1].double())
    got += with_gradient(channel_moments, x, per_image)
    exact += with_gradient(channel_moments_reference, x.double(), per_image)
    return max(relative_error(g, e) for g, e in zip(got, exact, strict=True))


def with_gradient(
    op: Callable[..., Sequence[Tensor]], x: Tensor, *arguments: object
) -> list[Tensor]:
    """What an op gives, and the gradient by x of its weighted sum, with the same weights for every dtype."""
    rng = torch.Generator(x.device).manual_seed(1)
    leaf = x.detach().requires_grad_()
    values = list(op(leaf, *arguments))
    weights = [torch.randn(v.shape, generator=rng, device=x.device).bfloat16() for v in values]
    weights = [w.to(v.dtype) for w, v in zip(weights, values, strict=True)]
    (dx,) = torch.autograd.grad(values, leaf, weights)
    return [*(v.detach() for v in values), dx]


def relative_error(got: Tensor, exact: Tensor) -> float:
    """The largest error over the largest value."""
    return ((got.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-12)).item()


def check_small_ops(device: torch.device, shapes: Sequence[Shape]) -> None:
    """Compare the grouped launch, merging and the loss with plain torch. Raises AssertionError where they differ."""
    for dtype in TOLERANCE:
        for memory_format in LAYOUTS.values():
            xs = [torch.randn(shape, device=device).to(dtype) for shape in shapes]
            xs = [x.to(memory_format=memory_format) for x in xs]
            measured = channel_moments_grouped(xs)
            for got, x in zip(measured, xs, strict=True):
                assert_close(tuple(got), tuple(channel_moments_reference(x)), rtol=1e-4, atol=1e-5)
                other = Moments(got.mean + 1, got.var)
                merged, expected = (
                    merge(got, other, 3, 5) for merge in (merge_moments, merge_moments_reference)
                )
                assert_close(tuple(merged), tuple(expected), rtol=1e-4, atol=1e-5)
    stored = [Moments(m.mean + 0.5, m.var * 2 + 0.1) for m in measured]
    for norm in ("l2", "l2_squared"):
        target = AlignmentTarget.of(stored, norm=norm)
        mean, var = (torch.cat(values)[None] for values in zip(*measured, strict=True))
        arguments = target.mean, target.var, target.weights, target.splits, target.squared
        expected = alignment_loss_reference(mean, var, *arguments)[0]
        assert_close(alignment_loss(measured, target), expected, rtol=1e-4, atol=1e-5)
