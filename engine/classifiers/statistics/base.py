"""What is known of a network inside, as values: moments of its layers, or a loss of each image alone."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from engine.classifiers.preprocess import Preprocess
from engine.errors import EngineWarning
from engine.types import Moments

Side = Literal["input", "output"]
"""What of a layer is measured: what it reads, or what it gives."""


class StatisticsWarning(EngineWarning):
    """A run continues with a classifier of which less is known than of others."""


class Examined(NamedTuple):
    """A network whose statistics are asked for.

    Attributes:
        network: frozen, in float32.
        run: runs it on one blank image.
        preprocess: from images in [0, 1] to what it reads.
    """

    network: nn.Module
    run: Callable[[], object]
    preprocess: Preprocess


class Tap(NamedTuple):
    """A place to measure.

    Attributes:
        layer: the layer that is measured.
        axis: that of the channels.
        of: what the layer reads, or what it gives.
        overwritten: whether the network writes over the tensor later. It then continues with a copy.
        rows: how many rows of the first axis are one image's, such as its tokens.
        interleaved: whether the first rows of all images come first, then their second ones.
    """

    layer: nn.Module
    axis: int = 1
    of: Side = "input"
    overwritten: bool = False
    rows: int = 1
    interleaved: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Statistics:
    """What a classifier is known to expect inside: moments at its layers over its training images.

    A loss needs more than this: how each layer and each gap counts belongs to the objective.

    Attributes:
        source: the name of where they come from, which tells them from others of the same network.
        taps: where one pass measures them, in call order. A layer that the pass runs twice has two taps.
        stored: the moments of each tap, (C,) float32.
    """

    source: str
    taps: tuple[Tap, ...]
    stored: tuple[Moments, ...]

    def moved(self, network: nn.Module, copy: nn.Module, device: torch.device) -> "Statistics":
        """The same statistics for a copy of the network, which has layers of the same names, on a device."""
        names = {layer: name for name, layer in network.named_modules()}
        return Statistics(
            source=self.source,
            taps=tuple(
                tap._replace(layer=copy.get_submodule(names[tap.layer])) for tap in self.taps
            ),
            stored=tuple(Moments(mean.to(device), var.to(device)) for mean, var in self.stored),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageTerm:
    """A loss of each image alone, which any classifier has: it needs no statistics of training images.

    Attributes:
        source: the name of where it comes from, with its argument.
        watching: (network) -> a context that yields a function: the logits (N, K) of a pass inside
            the block -> the loss of each image, (N,), with its graph.
        found, expected, remedy: what to answer where moments are needed, as in `Absent`.
    """

    source: str
    watching: Callable[[nn.Module], AbstractContextManager[Callable[[Tensor], Tensor]]]
    found: str
    expected: str = "the moments of its layers"
    remedy: str = "set `statistics` to 'batch-norm' or to a file of `ddis statistics`"


@dataclass(frozen=True)
class Absent:
    """Why nothing is known of a network, in the parts of an error: what it has, what was expected, what can be done.

    Each is a part of a sentence: "classifier 'x' {found}, expected {expected}: {remedy}."
    """

    found: str
    expected: str
    remedy: str


Known = Statistics | ImageTerm | Absent
"""What a source says of a network."""
StatisticsSource = Callable[[Examined, str], Known]
"""(the network, argument) -> what is known of it.

argument: what the user wrote after the source's name and a colon, "" for nothing.
"""
