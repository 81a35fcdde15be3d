"""A frozen classifier: its network, its own preprocessing, its class names, and what its BatchNorm layers stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.classifiers.norms import norm_calls, stored_moments
from engine.classifiers.preprocess import Preprocess
from engine.errors import ConfigError, ModelError
from engine.networks.frozen import fingerprint, freeze
from engine.types import Moments


class Source(NamedTuple):
    """A network as it was found, and what it knows of its input and classes; None where it must be told."""

    module: nn.Module
    preprocess: Preprocess | None
    labels: Sequence[str] | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Classifier:
    """The frozen parts of one classifier of K classes.

    stored: the running moments of its BatchNorm layers in call order. norm_layers: these layers; a layer that one pass
    runs twice stands in both twice. dtype: of the network but for its BatchNorm layers. fingerprint: tells it
    from others in manifests and token files.
    """

    name: str
    fingerprint: str
    module: nn.Module
    preprocess: Preprocess
    labels: tuple[str, ...]
    norm_layers: tuple[nn.Module, ...]
    stored: tuple[Moments, ...]
    dtype: torch.dtype = torch.float32

    @property
    def input_px(self) -> int:
        """Side of the square that the network reads (the longer one, should it not be square)."""
        return max(self.preprocess.crop)

    @property
    def device(self) -> torch.device:
        return self.stored[0].mean.device

    def describe(self) -> dict[str, str]:
        """What images depend on, as JSON values."""
        return {"name": self.name, "fingerprint": self.fingerprint, "dtype": str(self.dtype)}

    def logits(self, images: Tensor) -> Tensor:
        """images (N, 3, H, W) in [0, 1], any size -> logits (N, K), float32. Differentiable."""
        return logits_of(self.module, self.preprocess(images.float()).to(self.dtype)).float()


def frozen_classifier(
    name: str,
    module: nn.Module,
    preprocess: Preprocess,
    labels: Sequence[str] | None,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Classifier:
    """Freeze a network (in place) and find its BatchNorm layers by one dry run in float32.

    Raises ModelError where it has no usable BatchNorm statistics, ConfigError where the labels do not fit its outputs.
    """
    module = freeze(module).to(device, torch.float32)
    outputs: list[Tensor] = []
    example = preprocess(torch.zeros(1, 3, *preprocess.crop, device=device))
    layers = norm_calls(module, lambda: outputs.append(logits_of(module, example)), name)
    names = _checked(name, tuple(labels or ()), outputs[0].shape[1])
    stored, mark = (
        tuple(stored_moments(layer) for layer in layers),
        fingerprint([module], names, preprocess),
    )
    return Classifier(
        name=name,
        fingerprint=mark,
        module=convert(module, dtype),
        preprocess=preprocess,
        labels=names,
        norm_layers=layers,
        stored=stored,
        dtype=dtype,
    )


def convert(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The network in another dtype (in place), without torch's BatchNorm layers, which read any.

    Their running variances may leave float16's range.
    """
    for part in module.modules():
        if not isinstance(part, _BatchNorm):
            for value in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
                if value.is_floating_point():
                    value.data = value.data.to(dtype)
    return module


def logits_of(module: nn.Module, pixels: Tensor) -> Tensor:
    """Class scores (N, K) of preprocessed images, whatever the network wraps them in."""
    output = module(pixels)
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        shape = f"of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else ""
        raise ModelError(
            f"the network returned a {type(logits).__name__} {shape}, expected logits (N, K): wrap it in a "
            "module whose forward returns the class scores alone."
        )
    return logits


def _checked(name: str, labels: tuple[str, ...], classes: int) -> tuple[str, ...]:
    """Class names that fit the network: one each, none empty, no two alike.

    A model's own config may name two classes alike (ImageNet has two cranes): the later one becomes 'crane (517)'.
    """
    if not labels:
        raise ConfigError(
            f"classifier {name!r} came without class names, expected {classes}: pass labels=[...] in the "
            "order of its outputs."
        )
    if len(labels) != classes:
        raise ConfigError(
            f"classifier {name!r} has {classes} outputs and {len(labels)} labels, expected as many: pass one "
            "class name for each output, in their order."
        )
    empty = [number for number, label in enumerate(labels) if not label.strip()]
    if empty:
        raise ConfigError(
            f"label {empty[0]} of classifier {name!r} is empty, expected a name that a prompt can use: fill "
            "it in."
        )
    return tuple(
        f"{label} ({number})" if label in labels[:number] else label
        for number, label in enumerate(labels)
    )


def class_numbers(classifier: Classifier, classes: Sequence[str] | None) -> tuple[int, ...]:
    """The numbers of the named classes, ascending. Raises ConfigError for empty, doubled or unknown names."""
    if classes is None:
        return tuple(range(len(classifier.labels)))
    names = [classes] if isinstance(classes, str) else list(classes)
    for name in names:
        if not name.strip():
            raise ConfigError(
                "a class name is empty, expected one of the classifier's labels: remove the empty name."
            )
        if names.count(name) > 1:
            raise ConfigError(
                f"class {name!r} is named twice, expected each class once: remove one of them."
            )
        if name not in classifier.labels:
            raise ConfigError(
                f"class {name!r} is not a label of classifier {classifier.name!r}, expected some of "
                f"{', '.join(map(repr, classifier.labels[:20]))}: use these names, or give the classifier its labels."
            )
    if not names:
        raise ConfigError(
            "no class is named, expected at least one: leave `classes` out to take them all."
        )
    return tuple(sorted(classifier.labels.index(name) for name in names))
