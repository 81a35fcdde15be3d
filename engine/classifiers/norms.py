"""The BatchNorm layers of a network: which they are, in which order they run, what they stored in training."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.errors import ModelError
from engine.types import Moments


def is_batch_norm(module: nn.Module) -> bool:
    """BatchNorm1d/2d/3d, SyncBatchNorm and their children (timm's BatchNormAct2d), and frozen ones by their looks.

    Frozen BatchNorm (torchvision, transformers, timm) is no child of torch's class: its name and buffers tell.
    """
    looks_frozen = "BatchNorm" in type(module).__name__ and hasattr(module, "running_mean")
    return isinstance(module, _BatchNorm) or looks_frozen


def norm_calls(
    module: nn.Module, forward: Callable[[], object], name: str
) -> tuple[nn.Module, ...]:
    """The BatchNorm layers that `forward` runs, in call order.

    A layer that runs twice stands there twice, as its input is measured twice; one that never runs (an auxiliary head
    in evaluation mode) is left out. Raises ModelError where there is nothing to align with.
    """
    layers = {path: layer for path, layer in module.named_modules() if is_batch_norm(layer)}
    if not layers:
        raise ModelError(
            f"classifier {name!r} has no BatchNorm layers, expected at least one: their running statistics "
            "are all that is known of the training images. If they were folded into the convolutions for "
            "inference, load the checkpoint from before; a network built without them (ViT, ConvNeXt, VGG "
            "without bn) cannot be used."
        )
    blind = [
        path
        for path, layer in layers.items()
        if layer.running_mean is None or layer.running_var is None
    ]
    if blind:
        raise ModelError(
            f"{len(blind)} of {len(layers)} BatchNorm layers of classifier {name!r} keep no running "
            f"statistics (first: {blind[0]}), expected running_mean and running_var in each: it was built "
            "with track_running_stats=False. Build it with True and run training images through it in train "
            "mode once."
        )
    broken = [path for path, layer in layers.items() if not _sane(layer)]
    if broken:
        raise ModelError(
            f"{len(broken)} BatchNorm layers of classifier {name!r} hold NaN, infinite or negative running "
            f"statistics (first: {broken[0]}), expected finite ones: its training diverged or the file is "
            "damaged. Load another checkpoint."
        )
    called: list[nn.Module] = []
    hooks = [
        layer.register_forward_pre_hook(lambda layer, _: called.append(layer))
        for layer in layers.values()
    ]
    try:
        with torch.no_grad():
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    if not called:
        raise ModelError(
            f"none of the {len(layers)} BatchNorm layers of classifier {name!r} runs in evaluation mode, "
            "expected at least one: check that this is the network that was trained."
        )
    return tuple(called)


def stored_moments(layer: nn.Module) -> Moments:
    """The running mean and variance of one layer, (C,) each, float32 copies."""
    mean, var = _running(layer)
    return Moments(mean.float().clone(), var.float().clone())


def _sane(layer: nn.Module) -> bool:
    mean, var = _running(layer)
    return bool(mean.isfinite().all() and var.isfinite().all() and (var >= 0).all())


def _running(layer: nn.Module) -> tuple[Tensor, Tensor]:
    return cast(Tensor, layer.running_mean).detach(), cast(Tensor, layer.running_var).detach()
