"""Per-channel mean and biased variance of a feature map, with their gradient.

    mean[c] = sum x[n,c,s] / M        var[c] = sum (x[n,c,s] - mean[c])^2 / M        M = N*S
    dx      = dmean[c] / M + 2 (x - mean[c]) dvar[c] / M

The sums run over the batch, or over each image alone. Statistics are float32 whatever x is (float64 for float64). They
are Welford's and Chan's from one read of x: E[x^2] - E[x]^2 would lose all digits where |mean| >> deviation.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddis_kernels import _backend as backend
from ddis_kernels import _triton_moments as gpu


class Moments(NamedTuple):
    """Mean and biased variance of each channel, (C,) each; of each image's channels, (N, C)."""

    mean: Tensor
    var: Tensor


def channel_moments_reference(x: Tensor, per_image: bool = False) -> Moments:
    """Moments of x: (N, C) or (N, C, *) in plain torch, differentiable: (C,) each, or (N, C) of each image alone."""
    backend.check_feature_map("channel_moments", x)
    axes = [axis for axis in range(x.dim()) if axis != 1 and not (per_image and axis == 0)]
    wide = x if x.dtype == torch.float64 else x.float()
    if not axes:  # (N, C) and each image alone: a single value is its own mean
        return Moments(wide.clone(), torch.zeros_like(wide))
    mean = wide.mean(axes, keepdim=True)
    var = (wide - mean).square().mean(axes, keepdim=True)
    shape = x.shape[:2] if per_image else x.shape[1:2]
    return Moments(mean.reshape(shape), var.reshape(shape))


def new_moments(x: Tensor, per_image: bool) -> tuple[Tensor, Tensor]:
    """Uninitialised mean and variance for x: (C,) or (N, C), float32, or float64 for a float64 x."""
    shape = x.shape[:2] if per_image else (x.shape[1],)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(shape, dtype=dtype), x.new_empty(shape, dtype=dtype)


def _measure(x: Tensor, per_image: bool) -> tuple[Tensor, Tensor]:
    chosen = backend.choose(x)
    if chosen == "reference":
        mean, var = channel_moments_reference(x, per_image)
        return mean, var
    mean, var = new_moments(x, per_image)
    if chosen == "cpp":
        groups = x.shape[0] if per_image else 1
        backend.cpu.channel_moments(backend.dense(x), mean, var, groups, torch.get_num_threads())
    else:
        gpu.measure(backend.dense(x), mean, var, per_image)
    return mean, var


def affine(x: Tensor, mean: Tensor, dmean: Tensor, dvar: Tensor) -> tuple[Tensor, Tensor]:
    """(offset, slope) of the gradient offset + slope (x - mean) that dmean and dvar send to x."""
    count = x.numel() // mean.numel()
    return dmean / count, dvar * (2 / count)


def gradient(x: Tensor, mean: Tensor, dmean: Tensor, dvar: Tensor, per_image: bool) -> Tensor:
    """What dmean and dvar, the gradients of a loss with respect to the moments, send to x."""
    x = backend.dense(x)
    offset, slope = affine(x, mean, dmean, dvar)
    chosen = backend.choose(x)
    if chosen == "reference":
        shape = (*(mean.shape if per_image else (1, *mean.shape)), *[1] * (x.dim() - 2))
        offset, slope, mean = (value.view(shape) for value in (offset, slope, mean))
        return (offset + slope * (x.to(mean.dtype) - mean)).to(x.dtype)
    gx = torch.empty_like(x)
    if chosen == "cpp":
        groups = x.shape[0] if per_image else 1
        backend.cpu.moments_backward(x, offset, slope, mean, gx, groups, torch.get_num_threads())
    else:
        gpu.backward(x, None, None, None, "none", offset, slope, mean, gx, per_image)
    return gx


measure_op = torch.library.custom_op("ddis::channel_moments", _measure, mutates_args=())
gradient_op = torch.library.custom_op("ddis::channel_moments_backward", gradient, mutates_args=())
measure_op.register_fake(new_moments)
gradient_op.register_fake(
    lambda x, mean, dmean, dvar, per_image: torch.empty_like(backend.dense(x))
)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, ctx.per_image = inputs
    ctx.save_for_backward(x, output[0])


def _backward(ctx: Any, dmean: Tensor, dvar: Tensor) -> tuple[Tensor, None]:
    x, mean = ctx.saved_tensors
    run = gradient_op if backend.must_record(x) else gradient
    return run(x, mean, dmean, dvar, ctx.per_image), None


measure_op.register_autograd(_backward, setup_context=_save)


class _ChannelMoments(torch.autograd.Function):
    """The registered operator without the dispatcher, which costs more than the moments of a small tensor."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        """Not split into forward and setup_context: torch would inspect the signature at every call."""
        output = _measure(*inputs)
        _save(ctx, inputs, output)
        return output

    backward = staticmethod(_backward)


def channel_moments(x: Tensor, per_image: bool = False) -> Moments:
    """Moments of x: (N, C) or (N, C, *), any float dtype, any strides: (C,) each, or (N, C) of each image alone.

    Differentiable once. Contiguous and channels_last tensors are read in place, once; others are copied.
    """
    backend.check_feature_map("channel_moments", x)
    if backend.is_watched(x):
        return Moments(*measure_op(x, per_image))
    if x.requires_grad and torch.is_grad_enabled():
        return Moments(*_ChannelMoments.apply(x, per_image))
    return Moments(*_measure(x, per_image))


def channel_moments_grouped(xs: Sequence[Tensor]) -> list[Moments]:
    """Moments of the inputs of many layers, each (N, C, *): the small ones of a network in one launch on CUDA.

    Not differentiable: for recording, and for the first pass over micro-batches.
    """
    for x in xs:
        backend.check_feature_map("channel_moments_grouped", x)
    if torch.is_grad_enabled() and any(x.requires_grad for x in xs):
        raise ValueError(
            "channel_moments_grouped got an input that requires a gradient, expected none: detach it, or call "
            "channel_moments for each."
        )
    if any(backend.is_watched(x) for x in xs) or len({(x.device, x.dtype) for x in xs}) != 1:
        return [channel_moments(x) for x in xs]
    if backend.choose(xs[0]) == "triton":
        return [
            Moments(mean, var) for mean, var in gpu.measure_grouped([backend.dense(x) for x in xs])
        ]
    return [channel_moments(x) for x in xs]
