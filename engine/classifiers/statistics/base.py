"""Statistics as a value: the moments that a network's layers are known to read, and where to measure them."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from engine.types import Moments


class StatisticsWarning(UserWarning):
    """A run goes on with a classifier of which less is known than others can tell."""


class Tap(NamedTuple):
    """A place to measure: what a layer reads. axis: that of its channels."""

    layer: nn.Module
    axis: int = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Statistics:
    """What a classifier is known to expect inside: moments that its layers read in training.

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
            taps=tuple(Tap(copy.get_submodule(names[layer]), axis) for layer, axis in self.taps),
            stored=tuple(Moments(mean.to(device), var.to(device)) for mean, var in self.stored),
        )


@dataclass(frozen=True)
class Absent:
    """Why nothing is known of a network, in the parts of an error: what it has, what was expected, what can be done.

    Each is a part of a sentence: "classifier 'x' {found}, expected {expected}: {remedy}."
    """

    found: str
    expected: str
    remedy: str
