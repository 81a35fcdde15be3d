"""Per-channel mean and biased variance of a feature map.

    mean[c] = sum x[n,c,s] / M        var[c] = sum (x[n,c,s] - mean[c])^2 / M        M = N*S

Statistics are float32 for half precision and float32 input, float64 for float64.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Mean and biased variance of each channel, (C,) each."""

    mean: Tensor
    var: Tensor


def channel_moments_reference(x: Tensor) -> Moments:
    """Moments of x: (N, C) or (N, C, *) in plain torch, differentiable."""
    if not x.is_floating_point():
        raise TypeError(f"channel_moments got {x.dtype}, expected a floating dtype: convert the input first.")
    if x.dim() < 2 or x.numel() == 0:
        raise ValueError(
            f"channel_moments got shape {tuple(x.shape)}, expected (N, C, *) with at least one element: "
            "an empty batch has no moments."
        )
    axes = [axis for axis in range(x.dim()) if axis != 1]
    wide = x if x.dtype == torch.float64 else x.float()
    mean = wide.mean(axes)
    centred = wide - mean.view(1, -1, *[1] * (x.dim() - 2))
    return Moments(mean, centred.square().mean(axes))


def channel_moments(x: Tensor) -> Moments:
    """Moments of x: (N, C) or (N, C, *), any float dtype, any strides; gives (C,) and (C,)."""
    return channel_moments_reference(x)
