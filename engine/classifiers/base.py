"""A frozen classifier: its network, its own preprocessing, its class names, and what is known of its training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.classifiers.preprocess import Preprocess
from engine.classifiers.statistics import (
    BATCH_NORM,
    Absent,
    Examined,
    Known,
    Statistics,
    find_statistics,
)
from engine.classifiers.statistics.batch_norm import broken_norms
from engine.errors import ConfigError, ModelError
from engine.networks.frozen import fingerprint, freeze


class Found(NamedTuple):
    """A network as a loader found it, and what came with it; None for what the caller must give."""

    network: nn.Module
    preprocess: Preprocess | None
    labels: Sequence[str] | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Classifier:
    """A frozen network of K classes, with what is needed to use it. Any network will do.

    Attributes:
        name: what it was loaded as.
        fingerprint: tells it from others in manifests and token files.
        network: frozen; preprocessed images -> logits (N, K).
        preprocess: from images (N, 3, H, W) in [0, 1] to what the network reads.
        labels: the K class names.
        statistics: what guidance knows of it: what its layers expect, a loss of each image, or why neither.
        dtype: of the network, but for its BatchNorm layers.
    """

    name: str
    fingerprint: str
    network: nn.Module
    preprocess: Preprocess
    labels: tuple[str, ...]
    statistics: Known
    dtype: torch.dtype = torch.float32

    @property
    def input_px(self) -> int:
        """Side of the square that the network reads, or the longer side of a rectangle."""
        return max(self.preprocess.crop)

    @property
    def device(self) -> torch.device:
        return device_of(self.network)

    def describe(self) -> dict[str, str]:
        """What images depend on, as JSON values."""
        known = {"name": self.name, "fingerprint": self.fingerprint, "dtype": str(self.dtype)}
        found = self.statistics
        if not isinstance(found, Absent) and found.source != BATCH_NORM:
            known["statistics"] = found.source
        return known

    def with_network(self, copy: nn.Module, dtype: torch.dtype | None = None) -> "Classifier":
        """The same classifier by a copy of its network, such as one in another dtype or on another device."""
        known = self.statistics
        if isinstance(known, Statistics):
            known = known.moved(self.network, copy, device_of(copy))
        return replace(self, network=copy, statistics=known, dtype=dtype or self.dtype)

    def logits(self, images: Tensor) -> Tensor:
        """images (N, 3, H, W) in [0, 1], any size -> logits (N, K), float32. Differentiable."""
        return logits_of(self.network, self.preprocess(images.float()).to(self.dtype)).float()


def statistics_of(classifier: Classifier, purpose: str, instead: str) -> Statistics:
    """The statistics of a classifier. Raises ModelError where none are known, with what can be done.

    Args:
        classifier: what they are asked of.
        purpose: what needs them, as the subject of a sentence.
        instead: what to do without them, as a command.
    """
    known = classifier.statistics
    if isinstance(known, Statistics):
        return known
    raise ModelError(
        f"{purpose} needs statistics of the training images, and classifier {classifier.name!r} {known.found}, "
        f"expected {known.expected}: {known.remedy}. To go on without them, {instead}."
    )


def frozen_classifier(
    name: str,
    network: nn.Module,
    preprocess: Preprocess,
    labels: Sequence[str] | None,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    statistics: str = BATCH_NORM,
) -> Classifier:
    """Freeze a network (in place) and find its statistics, from a source of `SOURCES`, by one dry run in float32.

    Raises ModelError for a network that is damaged or gives no class scores, ConfigError for labels that do not fit.
    """
    network = freeze(network).to(device, torch.float32)
    if broken := broken_norms(network):
        raise ModelError(
            f"{len(broken)} BatchNorm layers of classifier {name!r} hold NaN, infinite or negative running statistics "
            f"(first: {broken[0]}), expected finite ones: its training diverged or the file is damaged. Load another "
            "checkpoint."
        )
    example = preprocess(torch.zeros(1, 3, *preprocess.crop, device=device))
    outputs: list[Tensor] = []

    def run() -> None:
        with torch.no_grad():
            outputs.append(logits_of(network, example))

    known = find_statistics(statistics, Examined(network, run, preprocess))
    if not outputs:
        run()
    names = _checked(name, tuple(labels or ()), outputs[0].shape[1])
    mark = fingerprint([network], names, preprocess)
    return Classifier(
        name=name,
        fingerprint=mark,
        network=convert(network, dtype),
        preprocess=preprocess,
        labels=names,
        statistics=known,
        dtype=dtype,
    )


def device_of(network: nn.Module) -> torch.device:
    """Where a network is; the CPU for one without a single weight."""
    first = next(chain(network.parameters(), network.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def convert(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The network in another dtype (in place), but for torch's BatchNorm layers, which read any.

    Their running variances may leave float16's range.
    """
    for part in network.modules():
        if not isinstance(part, _BatchNorm):
            for value in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
                if value.is_floating_point():
                    value.data = value.data.to(dtype)
    return network


def logits_of(network: nn.Module, pixels: Tensor) -> Tensor:
    """Class scores (N, K) of preprocessed images, whatever the network wraps them in."""
    output = network(pixels)
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
