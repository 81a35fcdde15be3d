"""Fused BatchNorm alignment kernels: one op a file, each with a torch reference."""

from ddis_kernels._backend import MissingKernelsError, use_backend
from ddis_kernels.channel_moments import (
    Moments,
    channel_moments,
    channel_moments_grouped,
    channel_moments_reference,
)

__all__ = [
    "MissingKernelsError",
    "Moments",
    "channel_moments",
    "channel_moments_grouped",
    "channel_moments_reference",
    "use_backend",
]
