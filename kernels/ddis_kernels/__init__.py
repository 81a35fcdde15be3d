"""Fused BatchNorm alignment kernels: one op a file, each with a torch reference."""

from ddis_kernels._backend import MissingKernelsError, choose, use_backend
from ddis_kernels.alignment_coefficients import (
    Coefficients,
    alignment_coefficients,
    alignment_loss,
    micro_batch_loss,
)
from ddis_kernels.alignment_target import AlignmentTarget
from ddis_kernels.bn_act_moments import (
    Measured,
    bn_act_moments,
    bn_act_moments_reference,
    fold_batch_norm,
)
from ddis_kernels.channel_moments import (
    Moments,
    channel_moments,
    channel_moments_grouped,
    channel_moments_reference,
)
from ddis_kernels.merge_moments import merge_moments, merge_moments_reference

__all__ = [
    "AlignmentTarget",
    "Coefficients",
    "Measured",
    "MissingKernelsError",
    "Moments",
    "alignment_coefficients",
    "alignment_loss",
    "bn_act_moments",
    "bn_act_moments_reference",
    "channel_moments",
    "channel_moments_grouped",
    "channel_moments_reference",
    "choose",
    "fold_batch_norm",
    "merge_moments",
    "merge_moments_reference",
    "micro_batch_loss",
    "use_backend",
]
