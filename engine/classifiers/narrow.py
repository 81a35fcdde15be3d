"""Networks that pruning made narrower than their architecture: a built one takes the widths of the weights."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

CHANNEL_AXES = 2
"""Of a weight, the first axes, which pruning shortens; those of a convolution's kernel come behind."""
PARTS = ("weight", "bias", "running_mean", "running_var")


def narrow(network: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    """Give layers the widths that their weights have, in place, where these are smaller; tells whether any was.

    Convolutions, matrices and BatchNorm layers are narrowed along their channels; a smaller kernel is that of another
    network. Their values are then undefined: load the weights next, and run the network once, as widths that do not fit
    each other fail only there.
    """
    changed = False
    for name, layer in network.named_modules():
        if not isinstance(layer, _ConvNd | nn.Linear | _BatchNorm):
            continue
        for part in PARTS:
            old, new = getattr(layer, part, None), weights.get(f"{name}.{part}")
            if isinstance(old, Tensor) and new is not None and _smaller(new, old):
                _replace(layer, part, torch.empty(new.shape, dtype=old.dtype, device=old.device))
                changed = True
        _restate(layer)
    return changed


def _smaller(new: Tensor, old: Tensor) -> bool:
    return (
        new.dim() == old.dim()
        and new.shape != old.shape
        and new.shape[CHANNEL_AXES:] == old.shape[CHANNEL_AXES:]
        and all(a <= b for a, b in zip(new.shape, old.shape, strict=True))
    )


def _replace(layer: nn.Module, part: str, value: Tensor) -> None:
    if part in layer._parameters:
        layer.register_parameter(part, nn.Parameter(value))
    else:
        layer.register_buffer(part, value)


def _restate(layer: nn.Module) -> None:
    """Let a layer's own record of its widths say what its weights do."""
    if isinstance(layer, _BatchNorm):
        layer.num_features = (
            len(layer.running_mean) if layer.running_mean is not None else layer.num_features
        )
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, _ConvNd):
        width, width_in = layer.weight.shape[:2]
        # Depthwise: a group for each channel.
        if layer.groups > 1 and layer.groups == layer.in_channels:
            layer.groups = width
        layer.out_channels, layer.in_channels = width, width_in * layer.groups
