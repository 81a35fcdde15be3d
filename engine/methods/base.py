"""What every method makes of a request: an object that makes images, group by group."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch

from engine.classifiers import Classifier
from engine.events import Events
from engine.memory.plan import Plan
from engine.methods.models import Models
from engine.request import Execution, Request
from engine.types import ImageKey, Sample


class Prepared(Protocol):
    """A request with its models loaded and all of it checked against each other.

    plan: how it keeps within its memory, if it needs a plan. joint: whether the images of a group depend on each other,
    so that a group of which an image is missing is made again.
    """

    @property
    def request(self) -> Request: ...

    @property
    def classifier(self) -> Classifier: ...

    @property
    def labels(self) -> dict[int, str]:
        """Label of each class that is made, by its number."""

    @property
    def device(self) -> torch.device: ...

    @property
    def plan(self) -> Plan | None: ...

    @property
    def joint(self) -> bool: ...

    def identities(self) -> dict[str, Any]:
        """Name and fingerprint of each model that the images depend on, as JSON values."""

    def groups(self) -> list[list[ImageKey]]:
        """The images of the request in groups that are made together; a function of the request alone."""

    def make(self, keys: Sequence[ImageKey], events: Events) -> list[Sample]:
        """The images of one group, in the order of `keys`."""


class Prepare(Protocol):
    """What a line of the registry names."""

    def __call__(self, request: Request, models: Models, execution: Execution) -> Prepared:
        """Load what the method needs and check it all. Raises EngineError's children for the caller's mistakes."""


def mixed_groups(classes: Sequence[int], images_per_class: int, batch: int) -> list[list[ImageKey]]:
    """Images in groups of at most `batch` and nearly equal size, classes mixed."""
    keys = [ImageKey(number, index) for index in range(images_per_class) for number in classes]
    count = -(-len(keys) // batch)
    bounds = [len(keys) * number // count for number in range(count + 1)]
    return [keys[start:stop] for start, stop in pairwise(bounds)]


def members(keys: Sequence[ImageKey]) -> str:
    """The name of a group that is made jointly: '0.0 4.0' of class 0's and class 4's first images."""
    return " ".join(f"{key.class_index}.{key.index}" for key in keys)
