"""Statistics from the network itself: what its BatchNorm layers stored in training, in the order in which they run."""

import warnings
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.classifiers.statistics.base import Absent, Examined, Statistics, Tap
from engine.classifiers.statistics.rows import rows_of
from engine.errors import ClassifierWarning, ConfigError
from engine.settings.sources import BATCH_NORM as NAME
from engine.types import Moments

LEAST, LARGEST = 1e-30, 1e18
"""Between these lies the largest variance of a layer that is of use: its square and its inverse are float32 numbers."""


def batch_norm(examined: Examined, argument: str = "") -> Statistics | Absent:
    """The running statistics of the BatchNorm layers that run in evaluation mode.

    A layer that never runs, such as an auxiliary head, is left out. Raises ConfigError for an argument.
    """
    if argument:
        raise ConfigError(
            f"statistics is '{NAME}:{argument}', expected '{NAME}' alone: they are in the network itself. Leave "
            f"{argument!r} out."
        )
    layers = {
        path: layer for path, layer in examined.network.named_modules() if is_batch_norm(layer)
    }
    scripted = any(isinstance(one, torch.jit.ScriptModule) for one in examined.network.modules())
    if not layers and scripted:
        return Absent(
            "is TorchScript, which hides its layers",
            "a network whose BatchNorm layers can be measured",
            "build the network in Python, load the script's `state_dict()` into it and hand that over; or set "
            "`statistics` to 'energy'",
        )
    if not layers:
        return Absent(
            "has no BatchNorm layers",
            "at least one that kept running statistics of the training images",
            "have its owner run `ddis statistics` and set `statistics` to the file, or set it to 'energy'; if they "
            "were folded into convolutions, load the network from before (see docs/own-classifier.md)",
        )
    blind = [path for path, layer in layers.items() if _is_blind(layer)]
    if blind:
        return Absent(
            f"has {len(blind)} of {len(layers)} BatchNorm layers without running statistics (first: {blind[0]})",
            "running_mean and running_var in each",
            "it was built with track_running_stats=False; build it with True, and run training images through it in "
            "train mode once",
        )
    called, seen = _calls(list(layers.values()), examined.run)
    if not called:
        return Absent(
            f"runs none of its {len(layers)} BatchNorm layers in evaluation mode",
            "at least one that runs",
            "check that this is the network that was trained",
        )
    names = {layer: path for path, layer in layers.items()}
    dead = [names[layer] for layer in dict.fromkeys(called) if _is_dead(layer)]
    if dead:
        return Absent(
            f"has {len(dead)} of {len(names)} BatchNorm layers whose stored variances no images leave, all of them 0 "
            f"or beyond what can be computed with (first: {dead[0]})",
            "those of training images",
            "it was saved before training, or the file is damaged; load another checkpoint",
        )
    huge = [
        names[layer]
        for layer, x in zip(called, seen, strict=True)
        if not x.is_meta and x.abs().max() > LARGEST
    ]
    if huge:
        return Absent(
            f"reads values at {len(huge)} of {len(called)} BatchNorm layers whose squares overflow (first: {huge[0]})",
            "values that have moments in float32",
            "its weights are not those of a trained network, or its preprocessing is another: check mean and std",
        )
    _warn_of_untrained(called)
    divided = rows_of(examined, lambda run: _calls(called, run)[1], seen)
    if divided is None:
        return Absent(
            "reads images mixed along the first axis of its BatchNorm layers",
            "rows of one image after the other",
            "choose statistics of other layers (`ddis statistics --layers`), or 'energy'",
        )
    return Statistics(
        source=NAME,
        taps=tuple(
            Tap(layer, rows=rows, interleaved=interleaved)
            for layer, (rows, interleaved) in zip(called, divided, strict=True)
        ),
        stored=tuple(map(_stored, called)),
    )


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a layer is BatchNorm1d/2d/3d, SyncBatchNorm, a child of theirs (timm's BatchNormAct2d), or a frozen one.

    Frozen BatchNorm (torchvision, transformers, timm) is no child of torch's class. Its name and its buffers give it
    away.
    """
    looks_frozen = "BatchNorm" in type(module).__name__ and hasattr(module, "running_mean")
    return isinstance(module, _BatchNorm) or looks_frozen


def broken_norms(network: nn.Module) -> list[str]:
    """The names of BatchNorm layers whose running statistics are NaN, infinite or negative: no training leaves such."""
    return [
        path
        for path, layer in network.named_modules()
        if is_batch_norm(layer) and not _is_blind(layer) and not _sane(layer)
    ]


def _calls(
    layers: Sequence[nn.Module], run: Callable[[], object]
) -> tuple[tuple[nn.Module, ...], list[Tensor]]:
    """Those of the layers that `run` calls, and what they read, in call order; one may stand there twice."""
    called: list[nn.Module] = []
    seen: list[Tensor] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        called.append(layer)
        seen.append(inputs[0])

    hooks = [layer.register_forward_pre_hook(note) for layer in dict.fromkeys(layers)]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(called), seen


def _stored(layer: nn.Module) -> Moments:
    """The running mean and variance of one layer, (C,) each, float32 copies."""
    mean, var = _running(layer)
    return Moments(mean.float().clone(), var.float().clone())


def _is_dead(layer: nn.Module) -> bool:
    """Whether no channel has a variance that can be divided by, or one is too large to be squared."""
    _, var = _running(layer)
    return not var.is_meta and not LEAST < var.max().item() < LARGEST


def _warn_of_untrained(called: Sequence[nn.Module]) -> None:
    """Warn where all layers hold what a new layer does: no image has passed them in training."""
    running = [_running(layer) for layer in called]
    if any(mean.is_meta for mean, _ in running):
        return
    if all(not mean.any() and bool((var == 1).all()) for mean, var in running):
        warnings.warn(
            f"the {len(called)} BatchNorm layers of the classifier hold means of 0 and variances of 1, as new ones do: "
            "no training images have passed them, and guidance by them aims at noise.",
            ClassifierWarning,
            stacklevel=2,
        )


def _is_blind(layer: nn.Module) -> bool:
    return layer.running_mean is None or layer.running_var is None


def _sane(layer: nn.Module) -> bool:
    mean, var = _running(layer)
    if mean.is_meta:
        return True  # there are no values to be wrong
    return bool(mean.isfinite().all() and var.isfinite().all() and (var >= 0).all())


def _running(layer: nn.Module) -> tuple[Tensor, Tensor]:
    return cast(Tensor, layer.running_mean).detach(), cast(Tensor, layer.running_var).detach()
