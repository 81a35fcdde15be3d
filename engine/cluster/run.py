"""A run whose parts workers of a cluster make, whatever the parts are: images of a data set, or cohorts of tokens."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from random import shuffle
from typing import Any

from engine.cluster.driver import Driver
from engine.cluster.ray_pool import RayPool
from engine.cluster.usual import Usual
from engine.cluster.worker import Worker
from engine.errors import ConfigError
from engine.events import Events, Noted
from engine.memory.plan import Plan
from engine.runners.summary import Summary
from engine.settings.cluster import Cluster


def made_by_workers(
    cluster: Cluster,
    worker: type[Worker],
    arguments: Mapping[str, Any],
    task: str,
    events: Events,
    usual: Usual | None = None,
    kept: Callable[[int], object] = lambda _: None,
) -> Iterator[tuple[int, int]]:
    """Start the workers and wait for the first, which checks everything; then make parts as the iterator is read.

    Yields the number of each part that was missing, and of those of its units that this run made, once it is written.

    Args:
        cluster: where the workers run.
        worker: what they are.
        arguments: what each is made with, by name, besides its threads and this process's folder.
        task: what is counted: images, or classes.
        events: where the run reports.
        usual: how much time parts may take, where that differs from part to part.
        kept: what is kept of a part that is not done, as `Losses` takes it.
    """
    pool = RayPool(cluster, worker, {**arguments, "folder": os.getcwd()})
    hello: dict[str, Any] = {}

    def begin(first: dict[str, Any]) -> list[int]:
        hello.update(first)
        pool.arguments |= {"plan": first["plan"], "expected": first["models"]}
        return list(first["missing"])

    def fits(other: dict[str, Any]) -> bool:
        # Where it doesn't, another one is started, with the first one's plan.
        return bool(other["plan"] == hello["plan"])

    def note(text: str) -> None:
        events.emit(Noted(text))

    driver = Driver(pool, cluster.workers, begin, fits, note, usual=usual, kept=kept)
    parts = reported_parts(driver, pool, hello, task, events)
    next(parts)  # from here on the workers end with the iterator, even if nobody reads it
    return parts


def reported_parts(
    driver: Driver, pool: RayPool, hello: Mapping[str, Any], task: str, events: Events
) -> Iterator[tuple[int, int]]:
    """Start a driver's workers, yield (0, 0), then its parts, reported as they are made; all workers end with the last.

    hello: filled by the driver's `begin` at the latest.
    """

    def tick(of: Driver) -> None:
        summary.tick(hello["parts"] - len(of.missing), of.seconds_left, workers_of(of))

    apart = False
    try:
        driver.start()
        yield 0, 0
        summary = Summary(events, task, hello["parts"], driver.clock)
        driver.tick = tick
        done = hello["units"] - hello["units_missing"]
        with events.task(task, hello["units"], done) as reported:
            for part, result in driver.parts():
                reported.progress(result["units"], workers_of(driver))
                if not result["made"] and part not in driver.losses and not apart:
                    apart = True
                    _part_ways(driver)
                yield part, result["made"]
    finally:
        driver.stop()
        pool.close()


def _part_ways(driver: Driver) -> None:
    """Give out what waits in random order: another process makes parts of the run too, in the same order so far."""
    driver.note("another process makes parts of this run as well")
    waiting = list(driver.waiting)
    shuffle(waiting)
    driver.waiting = deque(waiting)


def workers_of(driver: Driver) -> str:
    """A few words on the workers."""
    working = sum(assignment.part is not None for assignment in driver.assignments.values())
    lost = f", {driver.lost} lost" if driver.lost else ""
    return f"{working} of {driver.workers} workers{lost}"


def planned(plan: Plan | None) -> dict[str, Any] | None:
    """A plan that was handed over, as workers take it."""
    return None if plan is None else plan.to_json()


def refuse_objects(*models: object) -> None:
    """Raise ConfigError for a model that was handed over, which does not travel."""
    if any(model is not None for model in models):
        raise ConfigError(
            "a cluster was given models as objects, expected names, files or hub ids: each worker loads its "
            "own. Name them."
        )
