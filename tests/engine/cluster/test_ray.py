"""Real workers of Ray on this machine: the bytes of one process, whoever is killed."""

import json
import os
import signal
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from engine.cluster.pool import Failed, Lost
from engine.cluster.ray_pool import answer_to
from engine.cluster.runner import RayRunner
from engine.datasets.finish import finish
from engine.errors import ConfigError, EngineError, MissingExtraError
from engine.events import Events, Noted
from engine.memory.micro_batch import OutOfMemoryError
from engine.request import ClassifierSource, Execution, PriorSource, Request
from engine.runners.registry import runner_for
from engine.settings import Sampling
from engine.settings.cluster import Cluster
from engine.settings.methods import DDIS

PARTS = 6


@pytest.fixture
def request_(classifier_folder: Path, small_prior_folder: Path) -> Request:
    """Twelve images of four classes, in six groups."""
    return Request(
        classifier=ClassifierSource(source=str(classifier_folder)),
        prior=PriorSource(source=str(small_prior_folder)),
        method=DDIS(sampling=Sampling(steps=3, batch=2)),
        classes=("dog", "horse", "house", "person"),
        images_per_class=3,
        seed=3,
    )


def on_ray(workers: int) -> Execution:
    return Execution(device="cpu", cluster=Cluster(ray="local", workers=workers))


def bytes_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray")
def test_ray_makes_the_bytes_of_one_process_though_a_worker_is_killed(
    request_: Request, tmp_path: Path
) -> None:
    alone = Execution(device="cpu", share="1/1")
    for _ in runner_for(alone, tmp_path / "one").run(request_):
        pass
    finish(tmp_path / "one")
    notes: list[str] = []

    def watch(event: object) -> None:
        if isinstance(event, Noted):
            notes.append(event.text)

    runner = RayRunner(tmp_path / "ray", on_ray(1), Events(watch))
    made = []
    parts = runner.parts(request_)
    for part, images in parts:
        made.append((part, images))
        if len(made) == 2:
            os.kill(_worker(), signal.SIGKILL)
    assert sorted(part for part, _ in made) == list(range(PARTS))
    assert sum(images for _, images in made) == 12
    assert any("lost with part" in note for note in notes)
    finish(tmp_path / "ray")
    assert bytes_of(tmp_path / "ray") == bytes_of(tmp_path / "one")
    # A second run finds nothing to do, and says of a mistake what any other runner says.
    assert list(RayRunner(tmp_path / "ray", on_ray(2)).run(request_)) == []
    with pytest.raises(EngineError, match="images_per_class is 3 there and 4 here"):
        list(RayRunner(tmp_path / "ray", on_ray(1)).run(replace(request_, images_per_class=4)))


def _worker() -> int:
    """The process of the actor that is alive."""
    found = [
        int(path.name)
        for path in Path("/proc").iterdir()
        if path.name.isdecimal() and b"ray::PartWorker" in _command(path)
    ]
    (pid,) = found
    return pid


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ray": "nowhere"}, "expected 'local', 'auto' or HOST:PORT"),
        ({"ray": "local", "workers": 0}, "workers is 0"),
        ({"ray": "local", "gpus_per_worker": -1.0}, "gpus_per_worker is -1.0"),
        ({"workers": 4}, "came without ray"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Cluster(**given)


def test_a_cluster_and_a_share_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match="a cluster divides the work itself"):
        Execution(share="1/2", cluster=Cluster(ray="local"))


def test_a_cluster_needs_a_place(request_: Request) -> None:
    with pytest.raises(ConfigError, match="without out"):
        RayRunner(None, on_ray(1))


def test_without_ray_the_extra_is_named(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(MissingExtraError, match=r"ddis\[ray\]"):
        RayRunner(tmp_path / "set", on_ray(1)).run(request_)
    assert not (tmp_path / "set").exists()


def test_a_worker_without_memory_hands_its_part_back_and_other_errors_end_the_run() -> None:
    out_of_memory = OutOfMemoryError("memory ran out in phase 'cat'. Plan for less.")
    assert answer_to("worker", 3, out_of_memory) == Lost("worker", 3, str(out_of_memory))
    error = ConfigError("no such class")
    assert answer_to("worker", 3, error) == Failed("worker", 3, error)
    assert answer_to("worker", None, out_of_memory) == Failed("worker", None, out_of_memory)


def test_settings_of_a_cluster_are_plain(request_: Request) -> None:
    assert json.loads(json.dumps(request_.to_plain())) == request_.to_plain()
