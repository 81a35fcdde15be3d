"""A frozen classifier: its network, its own preprocessing, its class names, and what is known of its training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.classifiers.labels import fitting
from engine.classifiers.outputs import logits_of
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
from engine.classifiers.trial import tried
from engine.errors import ConfigError, ModelError
from engine.networks.frozen import fingerprint, freeze
from engine.settings.plain import nearest


class Found(NamedTuple):
    """A network as a loader found it, and what came with it; None for what the caller must give.

    assumed: whether nothing says that this is the preprocessing.
    unread: why the source's own preprocessing is None, where it has one.
    """

    network: nn.Module
    preprocess: Preprocess | None
    labels: Sequence[str] | None
    assumed: bool = False
    unread: ModelError | None = None


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
        differentiable: whether a gradient reaches the image.
    """

    name: str
    fingerprint: str
    network: nn.Module
    preprocess: Preprocess
    labels: tuple[str, ...]
    statistics: Known
    dtype: torch.dtype = torch.float32
    differentiable: bool = True

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
        # A decoder may give another layout, of which a network that calls `view` on its maps can make nothing.
        seen = self.preprocess(images.float()).to(self.dtype).contiguous()
        return logits_of(self.network, seen).float()


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
    """Freeze a network (in place), try it, and find its statistics, from a source of `STATISTICS`, in float32.

    Raises ModelError for a network that is damaged or gives no class scores, ConfigError for labels that do not fit.
    """
    network = freeze(network).to(device, torch.float32)
    if broken := broken_norms(network):
        raise ModelError(
            f"{len(broken)} BatchNorm layers of classifier {name!r} hold NaN, infinite or negative running statistics "
            f"(first: {broken[0]}), expected finite ones: its training diverged or the file is damaged. Load another "
            "checkpoint."
        )
    height, width = preprocess.crop
    shades = torch.linspace(0, 1, height * width, device=device).view(1, 1, height, width)
    found = tried(
        name, network, preprocess(shades.expand(1, 3, height, width)), tuple(labels or ())
    )
    names = fitting(name, tuple(labels or ()), found.classes)
    blank = preprocess(torch.zeros(1, 3, height, width, device=device))

    def run() -> None:
        with torch.no_grad():
            logits_of(found.network, blank)

    known = find_statistics(statistics, Examined(found.network, run, preprocess))
    mark = fingerprint([found.network], names, preprocess)
    return Classifier(
        name=name,
        fingerprint=mark,
        network=convert(found.network, dtype),
        preprocess=preprocess,
        labels=names,
        statistics=known,
        dtype=dtype,
        differentiable=found.differentiable,
    )


def check_differentiable(classifier: Classifier) -> None:
    """Raise ModelError for a network through which no gradient reaches the image."""
    if not classifier.differentiable:
        raise ModelError(
            f"classifier {classifier.name!r} lets no gradient through to the image, expected one that does: its code "
            "runs without autograd (torch.no_grad, detach, NumPy), or in whole numbers. Take that out, or choose "
            "method 'plain'."
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


def class_numbers(classifier: Classifier, classes: Sequence[str] | None) -> tuple[int, ...]:
    """The numbers of the named classes, ascending. Raises ConfigError for empty, doubled or unknown names."""
    if classes is None:
        return tuple(range(len(classifier.labels)))
    names = [classes] if isinstance(classes, str) else list(classes)
    for name in names:
        if not isinstance(name, str):
            raise ConfigError(
                f"classes has {name!r}, expected names: give the classifier's labels, such as "
                f"{classifier.labels[0]!r}, not their numbers."
            )
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
                f"{nearest(name, classifier.labels)}"
            )
    if not names:
        raise ConfigError(
            "no class is named, expected at least one: leave `classes` out to take them all."
        )
    return tuple(sorted(classifier.labels.index(name) for name in names))
