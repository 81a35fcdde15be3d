"""A data set made on the workers of a cluster."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.cluster.run import made_by_workers, planned, refuse_objects
from engine.cluster.worker import PartWorker
from engine.datasets.dataset import load_sample
from engine.datasets.part_reading import read_part
from engine.datasets.store import is_url, open_store
from engine.methods.drawing import IMAGES
from engine.request import Request
from engine.runners.base import SharingRunner
from engine.settings.cluster import Cluster
from engine.settings.plain import to_plain
from engine.types import Sample


class RayRunner(SharingRunner):
    """Makes the missing parts of a data set on workers that Ray starts; see `engine.runners.base.Runner`."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        refuse_objects(self.given.prior, self.given.tokens, self.given.student)
        self.place = self.out if is_url(self.out) else str(Path(self.out).resolve())

    def run(self, request: Request) -> Iterator[Sample]:
        """Start the workers, wait for the first, which checks everything, then make images as the iterator is read."""
        store = open_store(self.place)
        parts = self.parts(request)
        return (load_sample(*found) for part, _ in parts for found in read_part(store, part))

    def parts(self, request: Request) -> Iterator[tuple[int, int]]:
        """As `run`, but gives the number of each part, and of those of its images that this run made; reads none."""
        alone = replace(self.execution, runner="local", cluster=Cluster(), share="1/1")
        arguments = {
            "request": request.to_plain(),
            "execution": to_plain(alone),
            "out": str(self.place),
            "expected": self.expected,
            "plan": planned(self.given.plan),
        }
        return made_by_workers(self.execution.cluster, PartWorker, arguments, IMAGES, self.events)
