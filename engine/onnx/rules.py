"""What ONNX has no operator for, in operators that it has: our own kernels, and backward passes of networks.

Each rule is the formula of one ATen or `ddis` operator, for a network that is frozen: only inputs get gradients. What
follows from weights alone is computed while tracing and enters the graph as a constant.
"""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import torch
from ddis_kernels import AlignmentTarget, channel_moments_reference
from torch import Tensor
from torch._decomp import core_aten_decompositions

from engine.onnx.backward import constant, network_rules


def rules(target: AlignmentTarget | None = None) -> dict[Any, Callable[..., Any]]:
    """The decomposition table of a network or, with its target, of a guidance gradient: torch's own and ours."""
    ours = torch.ops.ddis
    return {
        **core_aten_decompositions(),
        **network_rules(),
        ours.channel_moments.default: _moments,
        ours.channel_moments_backward.default: _moments_backward,
        ours.bn_act_moments.default: _bn_act_moments,
        ours.bn_act_moments_backward.default: _bn_act_moments_backward,
        **({} if target is None else {ours.alignment.default: _alignment(target)}),
    }


def _moments(x: Tensor, per_image: bool) -> tuple[Tensor, Tensor]:
    return tuple(channel_moments_reference(x, per_image))  # type: ignore[return-value]  # it is a pair


def _moments_backward(
    x: Tensor, mean: Tensor, dmean: Tensor, dvar: Tensor, per_image: bool
) -> Tensor:
    """offset + slope (x - mean), of `ddis_kernels.channel_moments`."""
    count = prod(x.shape[2:]) * (1 if per_image else x.shape[0])
    shape = (*(mean.shape if per_image else (1, *mean.shape)), *[1] * (x.dim() - 2))
    slope = (dvar * 2 / count).view(shape)
    return ((dmean / count).view(shape) + slope * (x - mean.view(shape))).to(x.dtype)


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """scale and scale x + shift."""
    shape = (1, -1, *[1] * (x.dim() - 2))
    k, b = (constant(partial(value.view, shape)) for value in (scale, shift))
    return k, x * k + b


def _bn_act_moments(
    x: Tensor, scale: Tensor, shift: Tensor, activation: str, per_image: bool
) -> tuple[Tensor, Tensor, Tensor]:
    _, z = _affine(x, scale, shift)
    y = {"none": lambda: z, "relu": z.relu, "silu": lambda: z * z.sigmoid()}[activation]()
    return y.to(x.dtype), *_moments(x, per_image)


def _bn_act_moments_backward(
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
    k, z = _affine(x, scale, shift)
    if activation == "relu":
        gy = gy * z.relu().sign()
    elif activation == "silu":
        s = z.sigmoid()
        gy = gy * (s * (1 + z * (1 - s)))
    return (k * gy).to(x.dtype) + _moments_backward(x, mean, dmean, dvar, per_image)


def _alignment(target: AlignmentTarget) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """The loss (G,) and its gradient by moments (G, sum C), all layers at once.

    layers: (sum C, L), 1 where a channel is of a layer, so that a sum over a layer is a product of matrices.
    """

    def repeated(values: Tensor) -> Tensor:
        return torch.repeat_interleave(values, torch.tensor(target.channels))

    numbers = repeated(torch.arange(len(target.channels)))
    layers = torch.nn.functional.one_hot(numbers, len(target.channels)).to(target.mean.dtype)
    of_layer = [weight.clone() for weight in target.weights.unbind(1)]
    of_channel = [repeated(weight.cpu()) for weight in of_layer]
    layers, of_channel = (
        layers.to(target.mean.device),
        [w.to(target.mean.device) for w in of_channel],
    )

    def run(mean: Tensor, var: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
        terms, gradients = [], []
        kept = (target.mean, target.var)
        for measured, stored, weight, spread in zip(
            (mean, var), kept, of_layer, of_channel, strict=True
        ):
            gap = measured - stored
            if target.squared:
                weighted = gap * (spread * spread)
                terms.append((gap * weighted).sum(1))
                gradients.append(2 * weighted)
            else:
                norm = ((gap * gap) @ layers).sqrt()
                terms.append(norm @ weight)
                safe = norm + (1 - norm.sign())
                gradients.append(gap * ((weight / safe) @ layers.T))
        return terms[0] + terms[1], gradients[0], gradients[1]

    return run
