"""Workers that are objects of the test's own process: a cluster's runs without a cluster."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

import engine.cluster.run as cluster_run
from engine.cluster.pool import Answer, Lost, Made, Ready
from engine.cluster.ray_pool import QUIET, answer_to
from engine.cluster.worker import Worker
from engine.settings.cluster import Cluster

SAFEGUARDS = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", *QUIET)


@pytest.fixture(scope="module")
def ray_settings() -> Iterator[None]:
    """What Ray reads when it is imported, which a process does once: the same for all tests that start it."""
    with pytest.MonkeyPatch.context() as environment:
        asked = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": 64 * "0", **QUIET}
        for name, value in asked.items():
            environment.setenv(name, value)
        yield


@pytest.fixture
def no_ray_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the settings that a connection makes is there, and none is left behind."""
    for name in SAFEGUARDS:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)


class Killed(BaseException):
    """What a signal does to a worker that is only an object here."""


class WorkersHere:
    """A pool of workers in this process; each does its work when it is asked for an answer."""

    Killed = Killed

    def __init__(self, cluster: Cluster, worker: type[Worker], arguments: dict[str, Any]) -> None:
        self.worker, self.arguments = worker, arguments
        self.calls: deque[tuple[Any, int | None]] = deque()

    def start(self) -> Any:
        worker = self.worker(**self.arguments, threads=torch.get_num_threads())
        self.calls.append((worker, None))
        return worker

    def give(self, worker: Any, part: int) -> None:
        self.calls.append((worker, part))

    def answers(self, seconds: float) -> Sequence[Answer]:
        if not self.calls:
            return []
        worker, part = self.calls.popleft()
        try:
            if part is None:
                return [Ready(worker, worker.hello())]
            return [Made(worker, part, worker.make(part))]
        except Killed:
            return [Lost(worker, part, "it was killed")]
        except Exception as error:  # noqa: BLE001  # as Ray does, whatever it is
            return [answer_to(worker, part, error)]

    def stop(self, worker: Any) -> None:
        self.calls = deque(call for call in self.calls if call[0] is not worker)

    def close(self) -> None:
        self.calls.clear()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> type[WorkersHere]:
    """Workers are objects of this process; its class, with what kills them, is the value."""
    monkeypatch.setattr(cluster_run, "RayPool", WorkersHere)
    return WorkersHere
