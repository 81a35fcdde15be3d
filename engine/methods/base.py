"""What every method makes of a request: an object that makes images, group by group."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, overload

import torch

from engine.classifiers import Classifier
from engine.events import Events
from engine.memory.micro_batch import MicroBatches
from engine.memory.plan import Plan
from engine.methods.models import Models
from engine.request import Execution, Request
from engine.types import ImageKey, Sample


@dataclass(frozen=True)
class MixedGroups(Sequence[list[ImageKey]]):
    """Images in groups of at most `batch` and nearly equal size, classes mixed: image 0 of each class comes first.

    Each group is worked out when it is asked for, so that a million images take no memory.
    """

    classes: tuple[int, ...]
    images_per_class: int
    batch: int

    @property
    def images(self) -> int:
        """The number of images in all groups."""
        return len(self.classes) * self.images_per_class

    def __len__(self) -> int:
        return -(-self.images // self.batch)

    @overload
    def __getitem__(self, number: int) -> list[ImageKey]: ...
    @overload
    def __getitem__(self, number: slice) -> list[list[ImageKey]]: ...
    def __getitem__(self, number: int | slice) -> list[ImageKey] | list[list[ImageKey]]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        count = len(self)
        if not -count <= number < count:
            raise IndexError(f"group {number} of {count}")
        number %= count
        bounds = (self.images * number // count, self.images * (number + 1) // count)
        return [self._image(place) for place in range(*bounds)]

    def _image(self, place: int) -> ImageKey:
        index, column = divmod(place, len(self.classes))
        return ImageKey(self.classes[column], index)


class Prepared(Protocol):
    """A request with its models loaded and all of it checked against each other.

    plan: how it keeps within its memory, if it needs a plan. micro_batches: how many images go at once now, None where
    a method does not divide its groups. joint: whether the images of a group depend on each other, so that a group of
    which an image is missing is made again.
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
    def micro_batches(self) -> MicroBatches | None: ...

    @property
    def joint(self) -> bool: ...

    def identities(self) -> dict[str, Any]:
        """Name and fingerprint of each model that the images depend on, as JSON values."""

    def groups(self) -> MixedGroups:
        """The images of the request in groups that are made together; a function of the request alone."""

    def make(self, keys: Sequence[ImageKey], events: Events) -> list[Sample]:
        """The images of one group, in the order of `keys`."""

    def canary(self) -> "Prepared":
        """The same request in so few steps that a group takes about a second; see `engine.methods.kind`."""


class Prepare(Protocol):
    """What a line of the registry names."""

    def __call__(self, request: Request, models: Models, execution: Execution) -> Prepared:
        """Load what the method needs and check it all. Raises EngineError's children for the caller's mistakes."""


def members(keys: Sequence[ImageKey]) -> str:
    """The name of a group that is made jointly: '0.0 4.0' of class 0's and class 4's first images."""
    return " ".join(f"{key.class_index}.{key.index}" for key in keys)
