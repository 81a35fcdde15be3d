"""What a network is aligned with: the moments that its layers stored, and how gaps to them are weighed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from ddis_kernels.channel_moments import Moments

NORMS = ("l2", "l2_squared")


@dataclass(frozen=True, eq=False)
class AlignmentTarget:
    """Stored moments of a network's layers side by side, sum of all C, and how their gaps are weighed.

    mean, var: (sum C,) float32, or float64 if the stored moments are. weights: (layers, 2) of the same dtype, of the
    mean's and of the variance's gap. splits: (layers + 1,) int64, where each layer's channels begin. All on one device.
    """

    mean: Tensor
    var: Tensor
    weights: Tensor
    splits: Tensor
    channels: tuple[int, ...]
    squared: bool

    @classmethod
    def of(
        cls,
        stored: Sequence[Moments],
        weights: Sequence[tuple[float, float]] | None = None,
        norm: str = "l2",
    ) -> AlignmentTarget:
        """Stored moments (C,) of each layer, weights (a, b) of each layer (default 1), and `l2` or `l2_squared`."""
        if norm not in NORMS:
            raise ValueError(
                f"alignment norm is {norm!r}, expected one of {', '.join(NORMS)}: choose one of these."
            )
        weights = [(1.0, 1.0)] * len(stored) if weights is None else list(weights)
        if not stored or len(weights) != len(stored):
            raise ValueError(
                f"alignment got {len(stored)} layers and {len(weights)} weights, expected one pair (of the mean's gap, "
                "of the variance's gap) for each of at least one layer: give as many weights as layers."
            )
        _check_target(stored, weights)
        device, channels = stored[0].mean.device, tuple(s.mean.numel() for s in stored)
        dtype = torch.float64 if stored[0].mean.dtype == torch.float64 else torch.float32
        return cls(
            mean=torch.cat([s.mean for s in stored]).detach().to(dtype),
            var=torch.cat([s.var for s in stored]).detach().to(dtype),
            weights=torch.tensor(weights, dtype=dtype, device=device),
            splits=torch.tensor([0, *accumulate(channels)], dtype=torch.int64, device=device),
            channels=channels,
            squared=norm == "l2_squared",
        )


def _check_target(stored: Sequence[Moments], weights: Sequence[tuple[float, float]]) -> None:
    for number, (moments, pair) in enumerate(zip(stored, weights, strict=True)):
        if moments.mean.dim() != 1 or moments.var.shape != moments.mean.shape:
            raise ValueError(
                f"alignment got layer {number} with stored mean {tuple(moments.mean.shape)} and variance "
                f"{tuple(moments.var.shape)}, expected (C,) each: give running_mean and running_var of the same layer."
            )
        if len(pair) != 2 or not all(0 <= weight < float("inf") for weight in pair):
            raise ValueError(
                f"alignment got weights {tuple(pair)} for layer {number}, expected two finite ones of at least 0: give "
                "that of the mean's gap, then that of the variance's."
            )
