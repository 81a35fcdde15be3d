"""BatchNorm with frozen statistics, its activation, and the moments of its input, from one read and one write.

    y  = act(scale[c] x + shift[c])         scale = gamma / sqrt(running_var + eps), shift = beta - scale running_mean
    mean[c], var[c]: as in channel_moments, of x
    gx = scale[c] gy act'(scale[c] x + shift[c]) + dmean[c] / M + 2 dvar[c] (x - mean[c]) / M

The loss over the moments thus costs no pass over memory: forward reads x anyway, and backward reads x and gy once.
What is kept for backward is x alone. act is `none`, `relu` or `silu`; its argument is recomputed.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ddis_kernels import _backend as backend
from ddis_kernels import _triton_moments as gpu
from ddis_kernels.channel_moments import (
    affine,
    channel_moments_reference,
    gradient,
    gradient_op,
    new_moments,
)

ACTIVATIONS = {"none": lambda z: z, "relu": nn.functional.relu, "silu": nn.functional.silu}


class Measured(NamedTuple):
    """Output of a fused layer, in the shape and dtype of its input, and the input's moments, (C,) or (N, C)."""

    y: Tensor
    mean: Tensor
    var: Tensor


def fold_batch_norm(bn: Any) -> tuple[Tensor, Tensor]:
    """(scale, shift), (C,) and detached, of a BatchNorm in eval mode: bn(x) = scale x + shift.

    float32, or float64 where its statistics are: that serves float64 inputs alone. Raises ValueError for a layer that
    keeps no statistics.
    """
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError(
            f"fold_batch_norm got {bn}, which keeps no running statistics, expected a layer that does: "
            "with track_running_stats=False it normalises with the batch's own, and has nothing to fold. Leave "
            "it as it is."
        )
    dtype = torch.float64 if bn.running_var.dtype == torch.float64 else torch.float32
    scale = (bn.running_var.double() + bn.eps).rsqrt()
    if bn.weight is not None:
        scale = scale * bn.weight.double()
    shift = -bn.running_mean.double() * scale
    if bn.bias is not None:
        shift = shift + bn.bias.double()
    return scale.detach().to(dtype), shift.detach().to(dtype)


def _over_channels(values: Tensor, x: Tensor) -> Tensor:
    return values.to(torch.float64 if x.dtype == torch.float64 else torch.float32).view(
        1, -1, *[1] * (x.dim() - 2)
    )


def bn_act_moments_reference(
    x: Tensor, scale: Tensor, shift: Tensor, activation: str = "relu", per_image: bool = False
) -> Measured:
    """`bn_act_moments` in plain torch, differentiable."""
    k, b = _over_channels(scale, x), _over_channels(shift, x)
    y = ACTIVATIONS[activation](x.to(k.dtype) * k + b).to(x.dtype)
    return Measured(y, *channel_moments_reference(x, per_image))


def _forward(
    x: Tensor, scale: Tensor, shift: Tensor, activation: str, per_image: bool
) -> tuple[Tensor, Tensor, Tensor]:
    chosen = backend.choose(x)
    x = backend.dense(x)
    if chosen == "reference":
        return bn_act_moments_reference(x, scale, shift, activation, per_image)
    y, (mean, var) = torch.empty_like(x), new_moments(x, per_image)
    if chosen == "cpp":
        groups = x.shape[0] if per_image else 1
        backend.cpu.bn_act_moments(
            x, scale, shift, activation, y, mean, var, groups, torch.get_num_threads()
        )
    else:
        gpu.measure(x, mean, var, per_image, scale, shift, activation, y)
    return y, mean, var


def _pulled_back(gy: Tensor, z: Tensor, activation: str) -> Tensor:
    """gy act'(z), written out: within an operator autograd may be off."""
    if activation == "relu":
        return torch.where(z <= 0, torch.zeros_like(gy), gy)
    if activation == "silu":
        s = z.sigmoid()
        return gy * (s * (1 + z * (1 - s)))
    return gy


def _gradient(
    x: Tensor,
    gy: Tensor,
    scale: Tensor,
    shift: Tensor,
    activation: str,
    mean: Tensor,
    dmean: Tensor,
    dvar: Tensor,
    per_image: bool,
) -> Tensor:
    chosen = backend.choose(x)
    x = backend.dense(x)
    gy = backend.like(gy, x)
    if chosen == "reference":
        k, b = _over_channels(scale, x), _over_channels(shift, x)
        gz = _pulled_back(gy.to(k.dtype), x.to(k.dtype) * k + b, activation)
        return (k * gz + gradient(x.to(k.dtype), mean, dmean, dvar, per_image)).to(x.dtype)
    offset, slope = affine(x, mean, dmean, dvar)
    gx = torch.empty_like(x)
    if chosen == "cpp":
        groups = x.shape[0] if per_image else 1
        backend.cpu.bn_act_moments_backward(
            x,
            gy,
            scale,
            shift,
            activation,
            offset,
            slope,
            mean,
            gx,
            groups,
            torch.get_num_threads(),
        )
    else:
        gpu.backward(x, gy, scale, shift, activation, offset, slope, mean, gx, per_image)
    return gx


forward_op = torch.library.custom_op("ddis::bn_act_moments", _forward, mutates_args=())
backward_op = torch.library.custom_op("ddis::bn_act_moments_backward", _gradient, mutates_args=())
forward_op.register_fake(
    lambda x, scale, shift, activation, per_image: (
        torch.empty_like(backend.dense(x)),
        *new_moments(x, per_image),
    )
)
backward_op.register_fake(lambda x, *_: torch.empty_like(backend.dense(x)))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, scale, shift, ctx.activation, ctx.per_image = inputs
    ctx.save_for_backward(x, scale, shift, output[1])
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, gy: Tensor | None, dmean: Tensor | None, dvar: Tensor | None
) -> tuple[Any, ...]:
    x, scale, shift, mean = ctx.saved_tensors
    dmean = torch.zeros_like(mean) if dmean is None else dmean
    dvar = torch.zeros_like(mean) if dvar is None else dvar
    recorded = backend.must_record(x)
    if gy is None:
        gx = (gradient_op if recorded else gradient)(x, mean, dmean, dvar, ctx.per_image)
    else:
        run = backward_op if recorded else _gradient
        gx = run(x, gy, scale, shift, ctx.activation, mean, dmean, dvar, ctx.per_image)
    return gx, None, None, None, None


forward_op.register_autograd(_backward, setup_context=_save)


class _BnActMoments(torch.autograd.Function):
    """The registered operator without the dispatcher, which costs more than a small layer."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        """Not split into forward and setup_context: torch would inspect the signature at every call."""
        output = _forward(*inputs)
        _save(ctx, inputs, output)
        return output

    backward = staticmethod(_backward)


def bn_act_moments(
    x: Tensor, scale: Tensor, shift: Tensor, activation: str = "relu", per_image: bool = False
) -> Measured:
    """act(scale x + shift) of x: (N, C) or (N, C, *), and the moments of x, (C,) or, of each image alone, (N, C).

    scale, shift: (C,) float32 (or float64 as x), as `fold_batch_norm` gives them: they get no gradient, so they must
    not require one.
    Differentiable once with respect to x; y has the dtype and, if x is dense, the memory format of x.
    """
    backend.check_feature_map("bn_act_moments", x)
    _check_layer(x, scale, shift, activation)
    if backend.is_watched(x):
        return Measured(*forward_op(x, scale, shift, activation, per_image))
    if x.requires_grad and torch.is_grad_enabled():
        return Measured(*_BnActMoments.apply(x, scale, shift, activation, per_image))
    return Measured(*_forward(x, scale, shift, activation, per_image))


def _described(values: object) -> str:
    if not isinstance(values, Tensor):
        return f"of type {type(values).__name__}"
    return f"on {values.device}{'' if values.is_contiguous() else ', not contiguous'}"


def _check_layer(x: Tensor, scale: Tensor, shift: Tensor, activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"bn_act_moments got activation {activation!r}, expected one of {', '.join(ACTIVATIONS)}: fuse with "
            "'none' and apply another activation to y."
        )
    for name, values in (("scale", scale), ("shift", shift)):
        if (
            not isinstance(values, Tensor)
            or values.device != x.device
            or not values.is_contiguous()
        ):
            raise ValueError(
                f"bn_act_moments got {name} {_described(values)}, expected a contiguous tensor on {x.device}, as the "
                "input: use fold_batch_norm of a layer that was moved there."
            )
        fits = values.dtype in (
            torch.float32,
            x.dtype if x.dtype == torch.float64 else torch.float32,
        )
        if values.shape != x.shape[1:2] or not fits or values.requires_grad:
            raise ValueError(
                f"bn_act_moments got {name} {tuple(values.shape)} {values.dtype}"
                f"{' that requires a gradient' if values.requires_grad else ''}, expected ({x.shape[1]},) float32 "
                "without one: the layer is frozen, use fold_batch_norm."
            )
