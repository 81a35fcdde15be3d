"""Backward passes of frozen networks in operators that ONNX has, and resizes as products of matrices."""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from engine.errors import ModelError

aten = torch.ops.aten
RESIZES = {
    aten._upsample_bilinear2d_aa.default: aten._upsample_bilinear2d_aa_backward.default,
    aten._upsample_bicubic2d_aa.default: aten._upsample_bicubic2d_aa_backward.default,
    aten._upsample_nearest_exact2d.default: aten._upsample_nearest_exact2d_backward.default,
}
"""Resizes of images that are linear maps of rows and of columns, with their backward operators."""


def network_rules() -> dict[Any, Callable[..., Any]]:
    """The decompositions of operators that ONNX lacks, by operator."""
    resizes = {
        op: rule
        for forward, backward in RESIZES.items()
        for op, rule in ((forward, _resize(forward)), (backward, _resize_backward(forward)))
    }
    return {
        **resizes,
        aten.convolution_backward.default: _convolution_backward,
        aten.upsample_nearest2d_backward.default: _nearest_backward,
        aten.threshold_backward.default: _relu_backward,
        aten.avg_pool2d_backward.default: _avg_pool_backward,
        aten.max_pool2d_with_indices_backward.default: _max_pool_backward,
        aten.empty_permuted.default: lambda size, _, **options: aten.empty.memory_format(
            size, **options
        ),
    }


def constant(make: Callable[[], Tensor]) -> Tensor:
    """A tensor that is computed now, whatever is being traced around it."""
    with _disable_current_modes(), torch.no_grad():
        return make().contiguous()


def _relu_backward(grad: Tensor, y: Tensor, threshold: float) -> Tensor:
    """y is what relu returned: its sign is the mask."""
    if threshold != 0:
        return torch.where(y > threshold, grad, 0.0)
    return grad * y.relu().sign()


def _convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    _bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    _output_padding: Any,
    groups: int,
    mask: Sequence[bool],
) -> tuple[Tensor, None, None]:
    """The gradient by x: a convolution with the flipped kernel where the stride is 1, else a transposed one."""
    if transposed or mask[1] or mask[2]:
        raise ModelError(
            "a transposed convolution or a weight asks for a gradient, expected frozen convolutions alone: this "
            "network has no graph for ONNX; set `runtime` to 'torch'."
        )
    reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    inner = [r - p for r, p in zip(reach, padding, strict=True)]
    axes = list(range(2, weight.dim()))
    if set(stride) == {1} and min(inner) >= 0:

        def flipped() -> Tensor:
            outs, ins, *size = weight.shape
            parts = weight.detach().flip(axes).reshape(groups, outs // groups, ins, *size)
            return parts.transpose(1, 2).reshape(groups * ins, outs // groups, *size)

        kernel = constant(flipped)
        gx = aten.convolution(
            grad, kernel, None, stride, inner, dilation, False, [0] * len(inner), groups
        )
        return gx, None, None
    extra = [
        x.shape[axis] - ((grad.shape[axis] - 1) * s - 2 * p + r + 1)
        for axis, s, p, r in zip(axes, stride, padding, reach, strict=True)
    ]
    gx = aten.convolution(grad, weight, None, stride, padding, dilation, True, extra, groups)
    return gx, None, None


def _nearest_backward(
    grad: Tensor, output_size: Sequence[int], input_size: Sequence[int], *_scales: float | None
) -> Tensor:
    """The sum over the pixels that each one became; only where that is a whole number of them."""
    factors = [out // before for out, before in zip(output_size, input_size[2:], strict=True)]
    if [before * factor for before, factor in zip(input_size[2:], factors, strict=True)] != list(
        output_size
    ):
        raise ModelError(
            f"a network enlarges {tuple(input_size[2:])} to {tuple(output_size)} by nearest neighbours, expected a "
            "whole factor: this has no graph for ONNX; set `runtime` to 'torch'."
        )
    return aten.avg_pool2d(grad, factors, factors) * prod(factors)


def _avg_pool_backward(
    grad: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> Tensor:
    """A transposed convolution, channel by channel, with the pool's weights."""
    stride = stride or kernel
    if ceil_mode or (any(padding) and not count_include_pad):
        raise ModelError(
            "an average pool of the classifier rounds its size up or leaves out its padding, expected one that does "
            "neither: this has no graph for ONNX; set `runtime` to 'torch'."
        )
    channels = int(x.shape[1])
    share = 1 / (divisor or prod(kernel))
    weight = constant(
        lambda: torch.full((channels, 1, *kernel), share, dtype=grad.dtype, device=grad.device)
    )
    extra = [
        x.shape[axis] - ((grad.shape[axis] - 1) * s - 2 * p + k)
        for axis, s, p, k in zip((2, 3), stride, padding, kernel, strict=True)
    ]
    return aten.convolution(grad, weight, None, stride, padding, [1, 1], True, extra, channels)


def _max_pool_backward(grad: Tensor, x: Tensor, *settings: Any) -> Tensor:
    """Each maximum's gradient goes to the place that it came from; the last setting says which, in each channel."""
    empty = x.new_zeros(x.shape).flatten(2)
    return aten.scatter_add.default(empty, 2, settings[-1].flatten(2), grad.flatten(2)).view(
        x.shape
    )


def _matrices(
    op: Any, before: Sequence[int], after: Sequence[int], like: Tensor, options: Any
) -> list[Tensor]:
    """What a resize does to columns and to rows, (h, H) and (w, W): its effect on unit vectors."""

    def along(size: int, wanted: int) -> Tensor:
        rows = torch.eye(size, device=like.device)[None, None]
        return op(rows, [size, wanted], *options)[0, 0].to(like.dtype)

    return [constant(partial(along, b, a)) for b, a in zip(before, after, strict=True)]


def _resize(op: Any) -> Callable[..., Tensor]:
    def run(x: Tensor, size: Sequence[int], *options: Any) -> Tensor:
        rows, columns = _matrices(op, x.shape[2:], size, x, _without_scales(options))
        return constant(lambda: rows.T) @ x @ columns

    return run


def _resize_backward(op: Any) -> Callable[..., Tensor]:
    def run(grad: Tensor, size: Sequence[int], before: Sequence[int], *options: Any) -> Tensor:
        rows, columns = _matrices(op, before[2:], size, grad, _without_scales(options))
        return rows @ grad @ constant(lambda: columns.T)

    return run


def _without_scales(options: Sequence[Any]) -> list[Any]:
    """align_corners where the operator has it, and no scales: the sizes say the same."""
    return [value for value in options if isinstance(value, bool)]
