"""A run on the workers of a cluster."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.cluster.driver import Driver
from engine.cluster.ray_pool import RayPool
from engine.datasets.dataset import load_sample
from engine.datasets.parts import read_part
from engine.datasets.store import is_url, open_store
from engine.errors import ConfigError
from engine.events import Noted
from engine.methods.drawing import IMAGES
from engine.request import Request
from engine.runners.base import SharingRunner
from engine.runners.summary import Summary
from engine.settings.cluster import Cluster
from engine.settings.plain import to_plain
from engine.types import Sample


class RayRunner(SharingRunner):
    """Makes the missing parts of a data set on workers that Ray starts; see `engine.runners.base.Runner`."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        if self.given.prior or self.given.tokens or self.given.student:
            raise ConfigError(
                "a cluster was given models as objects, expected names, files or hub ids: each worker loads its "
                "own. Name them."
            )
        self.place = self.out if is_url(self.out) else str(Path(self.out).resolve())

    def run(self, request: Request) -> Iterator[Sample]:
        """Start the workers, wait for the first, which checks everything, then make images as the iterator is read."""
        store = open_store(self.place)
        parts = self.parts(request)
        return (load_sample(*found) for part, _ in parts for found in read_part(store, part))

    def parts(self, request: Request) -> Iterator[tuple[int, int]]:
        """As `run`, but gives the number of each part, and of its images, without reading them."""
        cluster = self.execution.cluster
        alone = replace(self.execution, runner="local", cluster=Cluster(), share="1/1")
        pool = RayPool(cluster, request.to_plain(), to_plain(alone), str(self.place), self.expected)
        hello: dict[str, Any] = {}

        def begin(first: dict[str, Any]) -> list[int]:
            hello.update(first)
            pool.plan, pool.expected = first["plan"], first["models"]
            return list(first["missing"])

        def fits(other: dict[str, Any]) -> bool:
            return bool(
                other["plan"] == pool.plan
            )  # else it is started again, with the first one's

        def note(text: str) -> None:
            self.events.emit(Noted(text))

        driver = Driver(pool, cluster.workers, begin, fits, note)
        try:
            driver.start()
        except BaseException:
            pool.close()
            raise
        return self._made(driver, pool, hello)

    def _made(
        self, driver: Driver, pool: RayPool, hello: Mapping[str, Any]
    ) -> Iterator[tuple[int, int]]:
        total, left = hello["images"], hello["images_missing"]
        summary = Summary(self.events, IMAGES, hello["parts"], driver.clock)

        def tick(of: Driver) -> None:
            summary.tick(hello["parts"] - len(of.missing), of.seconds_left, workers_of(of))

        driver.tick = tick
        try:
            with self.events.task(IMAGES, total, total - left) as task:
                for part, facts in driver.parts():
                    task.progress(facts["images"], workers_of(driver))
                    yield part, facts["images"]
        finally:
            driver.stop()
            pool.close()


def workers_of(driver: Driver) -> str:
    """A few words on the workers."""
    working = sum(task.part is not None for task in driver.tasks.values())
    lost = f", {driver.lost} lost" if driver.lost else ""
    return f"{working} of {driver.workers} workers{lost}"
