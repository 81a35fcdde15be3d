"""Runs in this process, one group after the other."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from engine.datasets.course import Course
from engine.datasets.dataset import open_dataset
from engine.datasets.run_record import differences
from engine.errors import ModelError
from engine.events import ImageMade
from engine.facts import with_names_of
from engine.memory.measure import peak_bytes
from engine.methods.base import Prepared
from engine.methods.drawing import IMAGES
from engine.methods.kind import kind_of
from engine.methods.models import Models
from engine.methods.registry import prepare
from engine.request import Request
from engine.runners.base import BaseRunner
from engine.runners.descended import Descended
from engine.types import ImageKey, Sample


class LocalRunner(BaseRunner):
    """Makes images in this process; see `engine.runners.base.Runner`, also for what it is made with."""

    def run(self, request: Request) -> Iterator[Sample]:
        """Make what a request asks for: load, check, then make images as the iterator is read."""
        prepared = prepare(request, Models(request, self.execution, self.given), self.execution)
        if self.expected is not None:
            check_models(self.expected, prepared.identities())
        if self.out is None:
            return self._kept_nowhere(prepared)
        with open_dataset(self.out, made_by(prepared), prepared.labels):
            pass  # refuses now what it would refuse at the first image
        return self._written(prepared, self.out)

    def _kept_nowhere(self, prepared: Prepared) -> Iterator[Sample]:
        groups = prepared.groups()
        with self.events.task(IMAGES, groups.images) as task:
            for group in groups:
                for image in prepared.make(group, self.events):
                    self.events.emit(reported(image))
                    yield image
            task.peak_bytes = peak_bytes(prepared.device)

    def _written(self, prepared: Prepared, out: str | Path) -> Iterator[Sample]:
        """Write what is missing of the folder, yielding each image once it is on the disk."""
        with open_dataset(out, made_by(prepared), prepared.labels) as writer:
            groups = prepared.groups()

            def begun() -> Iterator[tuple[list[ImageKey], list[ImageKey]]]:
                """The images of each group that are made, and those of them that are missing."""
                for group in groups:
                    if missing := [key for key in group if key not in writer.done]:
                        yield (group if prepared.joint else missing), missing

            order: dict[ImageKey, int] = {}  # a new run needs none
            if writer.done:
                order = {key: place for place, key in enumerate(chain.from_iterable(groups))}
            end = max((order.get(key, -1) for key in writer.done), default=-1)
            to_make = sum(len(group) for group, _ in begun())
            course, descended = Course(out, bool(writer.done)), Descended()
            kind = kind_of(prepared, tried=False).to_json()
            with self.events.task(IMAGES, groups.images, groups.images - to_make) as task:
                for group, missing in begun():
                    made = prepared.make(group, self.events)
                    sizes = {} if prepared.micro_batches is None else prepared.micro_batches.sizes
                    again = order if order and order[missing[0]] < end else None
                    course.note(missing, kind, sizes, again)
                    for image in made:
                        if image.key in missing:
                            writer.add(image)
                            descended.note(image.curve)
                            self.events.emit(reported(image))
                            yield image
                task.peak_bytes = peak_bytes(prepared.device)
                writer.finish(
                    {
                        "device": str(prepared.device),
                        "peak_bytes": task.peak_bytes,
                        "seconds": round(task.seconds, 2),
                        **course.to_json(),
                        "descended": descended.to_json(),
                        "memory_plan": None if prepared.plan is None else prepared.plan.to_json(),
                    }
                )
                course.delete()


def made_by(prepared: Prepared) -> dict[str, Any]:
    """What a run.json says of how images come about: the request with its classes named, and its models' identities."""
    request = replace(prepared.request, classes=tuple(prepared.labels.values()))
    return {"request": request.to_plain(), "models": prepared.identities()}


def check_models(expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raise ModelError, naming what differs, where models are not those that a record names."""
    shared = {name: found[name] for name in expected if name in found}
    differing = differences(
        {name: expected[name] for name in shared}, with_names_of(expected, shared)
    )
    if differing:
        raise ModelError(
            f"the models are not those of the record: {'; '.join(differing)}. Expected the same models, which alone "
            "make the same images: name where they are, with the statistics file if there was one, or begin a run of "
            "your own with the same settings."
        )


def reported(image: Sample) -> ImageMade:
    """The event of a finished image."""
    return ImageMade(
        class_index=image.key.class_index,
        index=image.key.index,
        label=image.label,
        confidence=image.confidence,
        l_bn=image.l_bn,
        skipped=image.skipped,
    )
