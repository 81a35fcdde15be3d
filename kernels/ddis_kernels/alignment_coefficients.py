"""The alignment loss of a network from its layers' moments, and its gradient with respect to each layer's input.

    L     = sum_l  a_l |mean_l - stored_mean_l|_2 + b_l |var_l - stored_var_l|_2       (l2_squared: each term squared)
    dmean = a_l (mean - stored_mean) / |mean - stored_mean|_2        (l2_squared: 2 a_l^2 (mean - stored_mean))
    dL/dx = A_c + B_c x,     B_c = 2 dvar_c / M,     A_c = dmean_c / M - B_c mean_c

M is the number of values per channel. A and B depend on the moments of the whole batch alone: with moments merged over
micro-batches, `micro_batch_loss` gives the exact gradient of the large batch, one micro-batch at a time.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton would read annotations of its kernels as types of its own.
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.linalg import vector_norm

from ddis_kernels import _backend as backend
from ddis_kernels._triton import jit, tl
from ddis_kernels._triton_moments import on_device
from ddis_kernels.alignment_target import AlignmentTarget
from ddis_kernels.channel_moments import Moments


def _check_counts(counts: Sequence[int], layers: int) -> None:
    if len(counts) != layers or not all(count > 0 for count in counts):
        raise ValueError(
            f"alignment got counts {tuple(counts)} for {layers} layers, expected one above 0 for each: give the "
            "number of values per channel, N*H*W."
        )


class Coefficients(NamedTuple):
    """The gradient of the loss with respect to one layer's input: offset + slope (x - mean) = A + B x, (C,) or (N, C).

    Kept about the mean, because A = offset - slope mean cancels where |mean| >> deviation.
    """

    offset: Tensor
    slope: Tensor
    mean: Tensor

    @property
    def A(self) -> Tensor:
        return self.offset - self.slope * self.mean

    @property
    def B(self) -> Tensor:
        return self.slope


def alignment_loss_reference(
    mean: Tensor,
    var: Tensor,
    stored_mean: Tensor,
    stored_var: Tensor,
    weights: Tensor,
    splits: Tensor,
    squared: bool,
) -> Tensor:
    """The loss (G,) of moments (G, sum C) in plain torch, differentiable."""
    power, terms = 2 if squared else 1, []
    for layer, (begin, end) in enumerate(
        zip(splits[:-1].tolist(), splits[1:].tolist(), strict=True)
    ):
        for which, (measured, stored) in enumerate(((mean, stored_mean), (var, stored_var))):
            gap = vector_norm(measured[:, begin:end] - stored[begin:end], dim=-1)
            terms.append((weights[layer, which] * gap) ** power)
    return torch.stack(terms).sum(0)


def _gradient_reference(
    measured: Tensor, stored: Tensor, weights: Tensor, splits: Tensor, squared: bool
) -> Tensor:
    """d loss / d measured, (G, sum C), written out: within an operator autograd may be off. weights: (layers,)."""
    parts = []
    for layer, (begin, end) in enumerate(
        zip(splits[:-1].tolist(), splits[1:].tolist(), strict=True)
    ):
        gap, weight = measured[:, begin:end] - stored[begin:end], weights[layer]
        norm = vector_norm(gap, dim=-1, keepdim=True)
        per_gap = (
            2 * weight**2
            if squared
            else torch.where(norm > 0, weight / norm, torch.zeros_like(norm))
        )
        parts.append(per_gap * gap)
    return torch.cat(parts, -1)


@jit
def _term(
    measured_ptr,
    stored_ptr,
    gradient_ptr,
    weight,
    begin,
    end,
    width,
    group,
    SQUARED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One norm of one layer: its term, and d term / d measured."""
    square = tl.zeros([BLOCK], tl.float32)
    for start in range(begin, end, BLOCK):
        i = start + tl.arange(0, BLOCK)
        gap = tl.load(measured_ptr + group * width + i, i < end, 0.0) - tl.load(
            stored_ptr + i, i < end, 0.0
        )
        square += gap * gap
    total = tl.sum(square, 0)
    norm = tl.sqrt(total)
    if SQUARED:
        per_gap, term = 2 * weight * weight, weight * weight * total
    else:
        per_gap, term = (
            tl.where(norm > 0, weight / tl.where(norm > 0, norm, 1.0), 0.0),
            weight * norm,
        )
    for start in range(begin, end, BLOCK):
        i = start + tl.arange(0, BLOCK)
        gap = tl.load(measured_ptr + group * width + i, i < end, 0.0) - tl.load(
            stored_ptr + i, i < end, 0.0
        )
        tl.store(gradient_ptr + group * width + i, per_gap * gap, i < end)
    return term


@jit
def _alignment_kernel(
    mean_ptr,
    var_ptr,
    stored_mean_ptr,
    stored_var_ptr,
    weights_ptr,
    splits_ptr,
    terms_ptr,
    dmean_ptr,
    dvar_ptr,
    width,
    SQUARED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Layer program_id(0) of group program_id(1). terms: (G, layers)."""
    layer, group = tl.program_id(0), tl.program_id(1)
    begin, end = tl.load(splits_ptr + layer), tl.load(splits_ptr + layer + 1)
    term = _term(
        mean_ptr,
        stored_mean_ptr,
        dmean_ptr,
        tl.load(weights_ptr + 2 * layer),
        begin,
        end,
        width,
        group,
        SQUARED,
        BLOCK,
    )
    term += _term(
        var_ptr,
        stored_var_ptr,
        dvar_ptr,
        tl.load(weights_ptr + 2 * layer + 1),
        begin,
        end,
        width,
        group,
        SQUARED,
        BLOCK,
    )
    tl.store(terms_ptr + group * tl.num_programs(0) + layer, term)


def _align(
    mean: Tensor,
    var: Tensor,
    stored_mean: Tensor,
    stored_var: Tensor,
    weights: Tensor,
    splits: Tensor,
    squared: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss (G,) of moments (G, sum C), and its gradient with respect to them."""
    chosen = backend.choose(mean)
    mean, var = mean.contiguous(), var.contiguous()
    if chosen == "reference":
        loss = alignment_loss_reference(
            mean, var, stored_mean, stored_var, weights, splits, squared
        )
        dmean, dvar = (
            _gradient_reference(measured, stored, weights[:, which], splits, squared)
            for which, (measured, stored) in enumerate(((mean, stored_mean), (var, stored_var)))
        )
        return loss, dmean, dvar
    dmean, dvar = torch.empty_like(mean), torch.empty_like(var)
    if chosen == "cpp":
        loss = mean.new_empty(mean.shape[0])
        backend.cpu.alignment(
            mean, var, stored_mean, stored_var, splits, weights, squared, loss, dmean, dvar
        )
        return loss, dmean, dvar
    terms = mean.new_empty((mean.shape[0], weights.shape[0]))
    with on_device(mean):
        _alignment_kernel[(weights.shape[0], mean.shape[0])](
            mean,
            var,
            stored_mean,
            stored_var,
            weights,
            splits,
            terms,
            dmean,
            dvar,
            mean.shape[1],
            squared,
            512,
        )
    return terms.sum(1), dmean, dvar


align_op = torch.library.custom_op("ddis::alignment", _align, mutates_args=())
align_op.register_fake(
    lambda mean, var, *_: (
        mean.new_empty(mean.shape[0]),
        mean.new_empty(mean.shape),
        var.new_empty(var.shape),
    )
)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001
    ctx.save_for_backward(*output[1:])


def _backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
    # The other outputs are gradients, for which there is no second derivative.
    dloss = grad_outputs[0]
    dmean, dvar = ctx.saved_tensors
    return dmean * dloss[:, None], dvar * dloss[:, None], None, None, None, None, None


align_op.register_autograd(_backward, setup_context=_save)


class _Alignment(torch.autograd.Function):
    """The registered operator without the dispatcher."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        """Not split into forward and setup_context: torch would inspect the signature at every call."""
        output = _align(*inputs)
        _save(ctx, inputs, output)
        return output

    backward = staticmethod(once_differentiable(_backward))  # type: ignore[assignment]


def _gradients(
    measured: Sequence[Moments], target: AlignmentTarget
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, dmean, dvar), (G,) and (G, sum C), of the layers' moments."""
    channels = tuple(m.mean.shape[-1] for m in measured)
    if channels != target.channels:
        raise ValueError(
            f"alignment got {len(channels)} layers with {channels} channels, expected {target.channels}: give the "
            "moments of the network whose stored ones these are, in call order."
        )
    if any(m.var.shape != m.mean.shape for m in measured):
        raise ValueError(
            f"alignment got means of {[tuple(m.mean.shape) for m in measured]} and variances of "
            f"{[tuple(m.var.shape) for m in measured]}, expected the same shapes: give both moments of each layer."
        )
    kinds = {t.dtype for m in measured for t in m}
    if not kinds <= {torch.float32, torch.float64} or len(kinds) != 1:
        raise TypeError(
            f"alignment got moments of {', '.join(map(str, kinds))}, expected float32 (or float64) alone, as "
            "channel_moments gives them: convert them with .float()."
        )
    mean = torch.cat([m.mean for m in measured], -1).reshape(-1, sum(channels))
    var = torch.cat([m.var for m in measured], -1).reshape(-1, sum(channels))
    stored = (t.to(mean.dtype) for t in (target.mean, target.var, target.weights))
    arguments = (mean, var, *stored, target.splits, target.squared)
    return align_op(*arguments) if backend.is_watched(mean) else _Alignment.apply(*arguments)


def alignment_loss(measured: Sequence[Moments], target: AlignmentTarget) -> Tensor:
    """L of the layers' moments: (C,) each gives a scalar, (N, C) of single images gives (N,). Differentiable once."""
    loss = _gradients(measured, target)[0]
    return loss if measured[0].mean.dim() > 1 else loss[0]


def alignment_coefficients(
    measured: Sequence[Moments], target: AlignmentTarget, counts: Sequence[int]
) -> tuple[Tensor, list[Coefficients]]:
    """L and, for each layer, its gradient with respect to the layer's input x: offset + slope (x - mean).

    measured: (C,) or (N, C) each. counts: the values per channel, N*H*W (per image: H*W), that each is the moments of.
    """
    _check_counts(counts, len(measured))
    with torch.no_grad():
        loss, dmean, dvar = _gradients(measured, target)
        layers = []
        for m, count, dm, dv in zip(
            measured,
            counts,
            dmean.split(target.channels, -1),
            dvar.split(target.channels, -1),
            strict=True,
        ):
            dm, dv = dm.view_as(m.mean), dv.view_as(m.var)
            layers.append(Coefficients(dm / count, dv * (2 / count), m.mean))
    return (loss if measured[0].mean.dim() > 1 else loss[0]), layers


def micro_batch_loss(
    layers: Sequence[Coefficients], measured: Sequence[Moments], counts: Sequence[int]
) -> Tensor:
    """A scalar whose gradient with respect to a micro-batch's layer inputs is A + B x, that of the whole batch's loss.

    layers: from the merged moments. measured: the micro-batch's own, with their graph, and `counts` of its values per
    channel. It is sum of A x + B x^2 / 2 over x, written with moments: its value means nothing.
    """
    _check_counts(counts, len(measured))
    terms = []
    for layer, m, count in zip(layers, measured, counts, strict=True):
        second = m.var + (m.mean - layer.mean).square()
        terms.append(count * (layer.offset * m.mean + 0.5 * layer.slope * second).sum())
    return torch.stack(terms).sum()
