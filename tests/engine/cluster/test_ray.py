"""Real workers of Ray on this machine: the bytes of one process, whoever is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from simulated_pool import SimulatedPool

from engine.cluster.driver import STARTS, Driver
from engine.cluster.pool import ClusterError, Failed, Handle, Lost
from engine.cluster.ray_pool import RayPool, answer_to, connect, lost_to
from engine.cluster.room import check_room
from engine.cluster.run import made_by_workers, reported_parts
from engine.cluster.runner import RayRunner
from engine.cluster.worker import PartWorker
from engine.datasets.finish import finish
from engine.datasets.parts import done_parts
from engine.datasets.shared import OtherKindError, SharedDataset
from engine.datasets.store import FolderStore
from engine.errors import ConfigError, EngineError, MissingExtraError, ModelError, OutputError
from engine.events import Event, Events, Noted, Summarised
from engine.files import OURS
from engine.memory.budget import BudgetError
from engine.memory.micro_batch import OutOfMemoryError
from engine.methods.drawing import IMAGES
from engine.request import ClassifierSource, Execution, PriorSource, Request
from engine.runners.registry import runner_for
from engine.runners.share import PartMaker
from engine.settings import Sampling
from engine.settings.cluster import Cluster
from engine.settings.methods import DDIS
from engine.settings.plain import from_plain, to_plain
from engine.types import Sample

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


@pytest.fixture
def head() -> Iterator[str]:
    """Where something listens; nothing does at the port after it, which it holds."""
    with socket.socket() as held:
        while True:
            server = socket.create_server(("127.0.0.1", 0))
            port = server.getsockname()[1]
            with server:
                try:
                    held.bind(("127.0.0.1", port + 1))
                except (OSError, OverflowError):
                    continue
                yield f"127.0.0.1:{port}"
                return


def on_ray(workers: int) -> Execution:
    return Execution(device="cpu", cluster=Cluster(ray="local", workers=workers))


def bytes_of(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(OURS))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray")
@pytest.mark.usefixtures("ray_settings")
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


def test_workers_make_the_bytes_of_one_process_though_one_is_killed(
    request_: Request, tmp_path: Path, here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Execution(device="cpu", share="1/1")
    assert len(list(runner_for(alone, tmp_path / "one").run(request_))) == 12
    finish(tmp_path / "one")
    make, made, seen = PartMaker.make, [], []

    def killed_once(maker: PartMaker, part: int, events: Events) -> list[Sample]:
        made.append(part)
        samples = make(maker, part, events)
        if len(made) == 3:  # its part is written, and nobody knows
            raise here.Killed
        return samples

    monkeypatch.setattr(PartMaker, "make", killed_once)
    runner = runner_for(on_ray(2), tmp_path / "ray", Events(seen.append))
    samples = list(runner.run(request_))
    assert len({sample.key for sample in samples}) == len(samples) == 12
    assert sorted(made) == sorted([*range(PARTS), made[2]])
    assert [event.text for event in seen if isinstance(event, Noted)] == [
        f"a worker was lost with part {made[2]}: it was killed"
    ]
    finish(tmp_path / "ray")
    assert bytes_of(tmp_path / "ray") == bytes_of(tmp_path / "one")
    assert list(runner_for(on_ray(2), tmp_path / "ray").run(request_)) == []


def test_relative_paths_begin_where_the_command_was_given(
    request_: Request,
    classifier_folder: Path,
    tmp_path: Path,
    here: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    class Elsewhere(here):
        def start(self) -> Any:
            os.chdir(elsewhere)  # where the cluster was started
            return super().start()

    monkeypatch.setattr("engine.cluster.run.RayPool", Elsewhere)
    monkeypatch.chdir(classifier_folder.parent)
    relative = replace(request_, classifier=ClassifierSource(source=classifier_folder.name))
    parts = RayRunner(tmp_path / "ray", on_ray(1)).parts(relative)
    assert sum(images for _, images in parts) == 12


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("error", [OutOfMemoryError, torch.AcceleratorError])
def test_a_worker_without_memory_or_gpu_costs_no_image(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    make, made, notes = PartMaker.make, [], []

    def fails_once(maker: PartMaker, part: int, events: Events) -> list[Sample]:
        made.append(part)
        if len(made) == 2:
            raise error("there is none")
        return make(maker, part, events)

    monkeypatch.setattr(PartMaker, "make", fails_once)
    parts = RayRunner(tmp_path / "ray", on_ray(2), Events(notes.append)).parts(request_)
    assert sum(images for _, images in parts) == 12
    assert sorted(made) == sorted([*range(PARTS), made[1]])
    said = [event.text for event in notes if isinstance(event, Noted)]
    assert any(f"lost with part {made[1]}" in text for text in said), said


@pytest.mark.usefixtures("here")
def test_a_worker_of_another_kind_takes_no_part(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, begun, notes = PartMaker.__init__, [], []

    def only_the_first_is_like_itself(maker: PartMaker, *arguments: Any, **named: Any) -> None:
        begun.append(maker)
        if len(begun) > 1:
            raise OtherKindError("threads is 1 there and 2 here")
        begin(maker, *arguments, **named)

    monkeypatch.setattr(PartMaker, "__init__", only_the_first_is_like_itself)
    parts = RayRunner(tmp_path / "ray", on_ray(2), Events(notes.append)).parts(request_)
    assert sum(images for _, images in parts) == 12
    assert len(begun) > 1
    said = [event.text for event in notes if isinstance(event, Noted)]
    assert any("threads is 1 there and 2 here" in text for text in said), said


@pytest.mark.usefixtures("here")
def test_workers_go_on_with_what_a_share_began_and_shares_with_what_workers_began(
    request_: Request, tmp_path: Path
) -> None:
    def share(place: str, which: str) -> int:
        runner = runner_for(Execution(device="cpu", share=which), tmp_path / place)
        return sum(1 for _ in runner.run(request_))

    def on_workers(place: str) -> Iterator[tuple[int, int]]:
        return RayRunner(tmp_path / place, on_ray(2)).parts(request_)

    assert share("one", "1/1") == 12
    assert share("a", "1/2") == 6
    assert sum(images for _, images in on_workers("a")) == 6
    parts = on_workers("b")
    next(parts)
    parts.close()
    assert 0 < share("b", "1/1") < 12
    for place in ("one", "a", "b"):
        finish(tmp_path / place)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b") == bytes_of(tmp_path / "one")


@pytest.mark.usefixtures("here")
def test_two_drivers_of_one_run_share_its_parts(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        len(list(runner_for(Execution(device="cpu", share="1/1"), tmp_path / "one").run(request_)))
        == 12
    )
    finish(tmp_path / "one")
    write, written, seen = SharedDataset.write, [], []

    def counted(dataset: SharedDataset, part: int, samples: list[Sample]) -> bool:
        written.append(part)
        return write(dataset, part, samples)

    monkeypatch.setattr(SharedDataset, "write", counted)
    monkeypatch.setattr("engine.cluster.run.shuffle", list.reverse)
    drivers = [
        RayRunner(tmp_path / "two", on_ray(1), Events(seen.append)).parts(request_)
        for _ in range(2)
    ]
    images = [0, 0]
    for turns in zip_longest(*drivers):  # each begins with all parts, and makes one in its turn
        for number, turn in enumerate(turns):
            images[number] += turn[1] if turn else 0
    assert sorted(written) == list(range(PARTS))
    assert sum(images) == 12
    assert min(images) > 0
    assert [event.text for event in seen if isinstance(event, Noted)] == [
        "another process makes parts of this run as well"
    ] * 2
    finish(tmp_path / "two")
    assert bytes_of(tmp_path / "two") == bytes_of(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray")
@pytest.mark.usefixtures("ray_settings")
@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C"])
def test_a_command_that_ends_leaves_no_worker_and_the_same_command_makes_what_is_missing(
    ended_by: signal.Signals,
    request_: Request,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request_ = replace(request_, images_per_class=60)  # more than are made before the signal comes
    for _ in runner_for(Execution(device="cpu", share="1/1"), tmp_path / "one").run(request_):
        pass
    parts = done_parts(FolderStore(tmp_path / "one"))
    finish(tmp_path / "one")
    out, asked = tmp_path / "ray", tmp_path / "one" / "run.json"
    command = [
        "generate",
        "--config",
        asked,
        "--out",
        out,
        "--device",
        "cpu",
        "--ray",
        "local",
        "--workers",
        1,
    ]
    driver = subprocess.Popen(
        [sys.executable, "-m", "engine", *map(str, command)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # a terminal sends SIGINT to all that belongs to the command
        # A shell ignores it for what it runs in the background, and so would the command.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        text=True,
    )
    workers: list[int] = []
    try:
        while driver.poll() is None and not workers:  # they load models before the first part
            time.sleep(0.1)
            workers = _workers(driver.pid)
        while driver.poll() is None and not done_parts(FolderStore(out)):
            time.sleep(0.02)
    finally:
        if ended_by is signal.SIGINT:
            os.killpg(driver.pid, ended_by)
        else:
            driver.kill()
        _, said = driver.communicate(timeout=60)
    if ended_by is signal.SIGINT:
        assert driver.returncode == 130, said
        assert said.rstrip().endswith(
            "interrupted: run the same command again to resume where it stopped."
        )
        assert "Traceback" not in said
    assert workers
    deadline = time.monotonic() + 60
    while any(map(psutil.pid_exists, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(psutil.pid_exists, workers))
    done, before = done_parts(FolderStore(out)), bytes_of(out)
    assert done
    left = parts - done
    give, held, busy = RayPool.give, [], set()

    def give_once_all_are_ready(pool: RayPool, worker: Handle, part: int) -> None:
        busy.add(worker)
        held.append((worker, part))
        while held and len(busy) == min(2, len(left)):
            give(pool, *held.pop(0))

    monkeypatch.setattr(RayPool, "give", give_once_all_are_ready)
    made = [part for part, _ in RayRunner(out, on_ray(2)).parts(request_)]
    assert len(busy) == min(2, len(left))
    assert sorted(made) == sorted(left)
    after = bytes_of(out)
    assert before.items() <= after.items()
    finish(out)
    assert bytes_of(out) == bytes_of(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray")
@pytest.mark.usefixtures("ray_settings")
def test_a_run_outlives_its_node_where_another_joins(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster as Nodes

    for _ in runner_for(Execution(device="cpu", share="1/1"), tmp_path / "one").run(request_):
        pass
    finish(tmp_path / "one")
    lost: list[Lost] = []

    def seen(*arguments: Any) -> Lost:
        lost.append(lost_to(*arguments))
        return lost[-1]

    monkeypatch.setattr("engine.cluster.ray_pool.lost_to", seen)
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        first = nodes.add_node(num_cpus=1)
        there = Execution(device="cpu", cluster=Cluster(ray=nodes.address, workers=1))
        made = []
        for part, _ in RayRunner(tmp_path / "ray", there).parts(request_):
            made.append(part)
            if len(made) == 2:
                nodes.remove_node(first, allow_graceful=False)
                nodes.add_node(num_cpus=1)
    finally:
        nodes.shutdown()
    assert sorted(made) == list(range(PARTS))
    assert [of.with_node for of in lost] == [True], lost
    finish(tmp_path / "ray")
    assert bytes_of(tmp_path / "ray") == bytes_of(tmp_path / "one")


def _worker() -> int:
    """The process of the actor that is alive."""
    (pid,) = _workers()
    return pid


def _workers(of: int | None = None) -> list[int]:
    """The processes of all actors that are alive, of a process's cluster: nobody else's are killed."""
    ours = psutil.Process(of).children(recursive=True)
    return [process.pid for process in ours if "ray::PartWorker" in _command(process)]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def nodes(*resources: dict[str, float], grows: bool = False) -> SimpleNamespace:
    """A stand-in for ray, whose cluster has nodes with these resources."""
    state = SimpleNamespace(get_cluster_config=lambda: object() if grows else None)
    return SimpleNamespace(
        nodes=lambda: [{"Alive": True, "Resources": has} for has in resources],
        _private=SimpleNamespace(state=SimpleNamespace(state=state)),
    )


def test_a_worker_that_no_node_can_hold_is_refused_at_once() -> None:
    with pytest.raises(
        ClusterError,
        match=r"a worker takes 1 CPU and 1 GPU and no node of the cluster has as much \(the nearest has 2 CPUs and "
        r"0 GPUs\), expected a node that can hold one: lower `gpus_per_worker` or",
    ):
        check_room(nodes({"CPU": 2.0}), 1, 1)
    apart = [{"CPU": 64.0}, {"CPU": 2.0, "GPU": 1.0}]
    with pytest.raises(ClusterError, match="nearest has 2 CPUs and 1 GPU"):
        check_room(nodes(*apart), 4, 1)
    with pytest.raises(ClusterError, match="nearest has 0 CPUs and 0 GPUs"):
        check_room(nodes(), 1, 0)
    check_room(nodes(*apart), 2, 0.5)
    check_room(nodes(*apart), 4, 0)
    check_room(nodes({"CPU": 2.0}, grows=True), 4, 1)  # it starts nodes itself
    dead = nodes({"CPU": 8.0})
    dead.nodes = lambda: [{"Alive": False, "Resources": {"CPU": 8.0}}]
    with pytest.raises(ClusterError, match="no node of the cluster has as much"):
        check_room(dead, 1, 0)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray")
@pytest.mark.usefixtures("ray_settings")
def test_a_command_that_asks_for_more_than_the_machine_has_ends_at_once_and_leaves_no_cluster(
    request_: Request, tmp_path: Path
) -> None:
    asked = Cluster(ray="local", gpus_per_worker=1000.0)
    with pytest.raises(ClusterError, match="takes 1 CPU and 1000 GPUs and no node"):
        RayRunner(tmp_path / "set", Execution(device="cpu", cluster=asked)).parts(request_)
    assert not sys.modules["ray"].is_initialized()
    assert not (tmp_path / "set").exists()


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


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "runner is 'ray' and `ray` says nothing, expected where the workers run"),
        ({"share": "1/2"}, "runner is 'ray' and `ray` says nothing"),
        (
            {"runner": "share", "cluster": Cluster(ray="local")},
            "runner is 'share' with ray 'local'",
        ),
    ],
)
def test_a_runner_does_not_leave_out_where_its_workers_run(
    given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        Execution(**{"runner": "ray", **given})
    assert Execution(runner="ray", cluster=Cluster(ray="local")).carried_out_by == "ray"


NO_TOKEN_ASKED = {
    "_raylet": SimpleNamespace(
        GcsClient=lambda address: None,
        get_authentication_mode=lambda: "token",
        AuthenticationMode=SimpleNamespace(TOKEN="token"),
    ),
    "exceptions": SimpleNamespace(AuthenticationError=PermissionError),
}
"""What a stand-in for ray says at HOST:PORT."""
A_RAY = """
import os
from types import SimpleNamespace
environment, began = dict(os.environ), []
_raylet = SimpleNamespace(GcsClient=lambda address: None)
exceptions = SimpleNamespace(AuthenticationError=PermissionError)
def init(**options): began.append(options)
def is_initialized(): return bool(began)
def shutdown(): began.clear()
"""


@pytest.mark.usefixtures("no_ray_settings")
@pytest.mark.parametrize("local", [True, False])
def test_a_cluster_that_is_started_here_is_quiet_asks_for_a_token_and_is_at_loopback(
    local: bool, head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = "local" if local else head
    (tmp_path / "ray.py").write_text(A_RAY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)  # so that it is put back
    monkeypatch.delitem(sys.modules, "ray")
    ray = connect(Cluster(ray=where, workers=2, cpus_per_worker=3))
    (options,) = ray.began
    assert ray.environment["RAY_USAGE_STATS_ENABLED"] == "0"
    if where == "local":
        assert ray.environment["RAY_AUTH_MODE"] == "token"
        assert len(ray.environment["RAY_AUTH_TOKEN"]) == 64
        assert options["_node_ip_address"].startswith("127.")
        assert options["address"] == "local"
        assert options["num_cpus"] == 6
        assert options["include_dashboard"] is False
    else:  # the cluster has a token of its own, or none
        assert "RAY_AUTH_MODE" not in ray.environment
        assert "RAY_AUTH_TOKEN" not in ray.environment
        assert options["address"] == where


@pytest.mark.usefixtures("no_ray_settings")
def test_a_ray_that_the_caller_imported_or_initialised_is_refused_with_the_remedy(
    head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[bool] = []
    initialised, mode = False, "disabled"
    ray = SimpleNamespace(
        init=lambda **_: begun.append(True),
        is_initialized=lambda: initialised or bool(begun),
        shutdown=begun.clear,
        _raylet=SimpleNamespace(
            get_authentication_mode=lambda: mode, AuthenticationMode=SimpleNamespace(TOKEN="token")
        ),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # too late: it was read when ray was imported
    with pytest.raises(
        ClusterError, match=r"before the run asked for a token.*Take `import ray` out"
    ):
        connect(Cluster(ray="local"))
    assert not begun
    connect(Cluster(ray=head))  # whose token is its own affair
    assert begun
    begun.clear()
    mode = "token"
    connect(Cluster(ray="local"))
    assert begun
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    begun.clear()
    initialised = True
    for where in ("local", head):
        with pytest.raises(
            ClusterError, match=r"initialised in this process already.*ray.shutdown"
        ):
            connect(Cluster(ray=where))
    assert not begun


def test_a_cluster_needs_a_place(request_: Request) -> None:
    with pytest.raises(ConfigError, match="without out"):
        RayRunner(None, on_ray(1))


@pytest.mark.usefixtures("no_ray_settings")
def test_without_ray_the_extra_is_named(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"ddis\[ray\]"):
        RayRunner(tmp_path / "set", on_ray(1)).run(request_)
    assert not (tmp_path / "set").exists()


@pytest.mark.usefixtures("no_ray_settings")
def test_a_cluster_of_a_busy_machine_is_begun_again_and_then_refused_in_one_sentence(
    head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[bool] = []

    def init(**_: object) -> None:
        begun.append(True)
        if len(begun) != 3:
            raise Exception("The current node timed out during startup.")

    ray = SimpleNamespace(
        init=init,
        is_initialized=lambda: len(begun) == 3,
        shutdown=lambda: None,
        **NO_TOKEN_ASKED,
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    assert connect(Cluster(ray="local")) is ray
    assert len(begun) == 3
    begun += [True] * 7
    with pytest.raises(ClusterError, match=r"did not start .*timed out.*make shares"):
        connect(Cluster(ray="local"))
    assert len(begun) == 13
    with pytest.raises(ClusterError, match=f"no cluster of Ray answers at '{head}'"):
        connect(Cluster(ray=head))
    assert len(begun) == 14


@pytest.mark.usefixtures("no_ray_settings")
def test_a_place_where_nothing_listens_is_refused_before_ray_tries_it(
    head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[bool] = []
    ray = SimpleNamespace(
        init=lambda **_: begun.append(True), is_initialized=lambda: bool(begun), **NO_TOKEN_ASKED
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    host, _, port = head.rpartition(":")
    for where in (
        f"{host}:{int(port) + 1}",
        "no-such-host.invalid:6379",
        f"{host}:99999",
        "a..b:6379",
    ):
        with pytest.raises(ClusterError, match=f"no cluster of Ray answers at '{where}'"):
            connect(Cluster(ray=where))
    assert not begun
    connect(Cluster(ray=head))
    assert begun


@pytest.mark.usefixtures("no_ray_settings")
@pytest.mark.parametrize("asked", [None, "right", "wrong"])
@pytest.mark.parametrize("at_hand", [None, "right"])
def test_a_cluster_that_asks_for_a_token_gets_the_one_that_is_there(
    asked: str | None, at_hand: str | None, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AuthenticationError(Exception):
        pass

    tokens: list[str | None] = [None]
    begun: list[str | None] = []

    def answer(address: str) -> None:
        assert address == head
        if asked not in (None, tokens[-1]):
            raise AuthenticationError("the token is missing or incorrect")

    loader = SimpleNamespace(has_token=lambda ignore_auth_mode: at_hand is not None)
    ray = SimpleNamespace(
        init=lambda **_: begun.append(tokens[-1]),
        is_initialized=lambda: bool(begun),
        shutdown=lambda: None,
        exceptions=SimpleNamespace(AuthenticationError=AuthenticationError),
        _raylet=SimpleNamespace(
            GcsClient=answer,
            AuthenticationTokenLoader=SimpleNamespace(instance=lambda: loader),
            Config=SimpleNamespace(initialize=lambda _: tokens.append(at_hand)),
        ),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    if asked in (None, at_hand):
        connect(Cluster(ray=head))
        assert begun == [asked]
        assert os.environ.get("RAY_AUTH_MODE") == (asked and "token")
    else:
        with pytest.raises(
            ClusterError, match=r"refused this process .* set RAY_AUTH_MODE=token and"
        ):
            connect(Cluster(ray=head))
        assert begun == []


def test_a_worker_without_memory_hands_its_part_back_and_other_errors_end_the_run() -> None:
    out_of_memory = OutOfMemoryError("memory ran out in phase 'cat'. Plan for less.")
    assert answer_to("worker", 3, out_of_memory) == Lost("worker", 3, str(out_of_memory))
    error = ConfigError("no such class")
    assert answer_to("worker", 3, error) == Failed("worker", 3, error)


@pytest.mark.parametrize(
    "error",
    [
        OtherKindError("the set is made by workers of another kind."),
        BudgetError("this machine has 2 GB."),
        OutOfMemoryError("memory ran out in phase 'cat'."),
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        torch.AcceleratorError("CUDA error: unknown error"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_machine_that_does_not_suit_costs_a_worker_and_the_callers_mistake_the_run(
    error: Exception,
) -> None:
    lost = answer_to("worker", None, error)
    assert isinstance(lost, Lost)
    assert str(error) in lost.reason
    at_work = answer_to("worker", 3, error)
    if isinstance(error, OtherKindError | BudgetError):  # which only a start can find
        assert at_work == Failed("worker", 3, error)
    else:
        assert at_work == replace(lost, part=3)
    for mistake in (ConfigError("no such class"), ModelError("absent"), OutputError("other run")):
        assert answer_to("worker", None, mistake) == Failed("worker", None, mistake)


DIED = "The actor died unexpectedly before finishing this task.\n\tpid: 7\n\tip: 192.0.2.1\n"


@pytest.mark.parametrize(
    ("kind", "said", "with_node", "reason"),
    [
        (
            "ActorDiedError",
            f"{DIED}The actor died because its node has died. Node Id: 8b\n\treceived SIGTERM",
            True,
            "The actor died because its node has died. Node Id: 8b received SIGTERM",
        ),
        (
            "ActorDiedError",
            f"{DIED}The actor is dead because its worker process has died.",
            False,
            "The actor is dead because its worker process has died.",
        ),
        ("ActorUnavailableError", "Socket closed", True, "ActorUnavailableError: Socket closed"),
        ("OutOfMemoryError", "the node is low", False, "OutOfMemoryError: the node is low"),
    ],
)
def test_a_worker_that_is_lost_with_its_node_is_told_from_one_that_ended(
    kind: str, said: str, with_node: bool, reason: str
) -> None:
    names = ("ActorDiedError", "ActorUnavailableError", "LocalRayletDiedError", "NodeDiedError")
    kinds = {name: type(name, (Exception,), {}) for name in (*names, "OutOfMemoryError")}
    found = lost_to("worker", 3, kinds[kind](said), SimpleNamespace(**kinds))
    assert found == Lost("worker", 3, reason, with_node)


def test_one_odd_machine_does_not_end_a_run_that_others_make() -> None:
    pool = SimulatedPool(200, starts=lambda worker: "another kind" if worker >= 3 else "")
    notes: list[str] = []
    driver = Driver(pool, 4, lambda hello: hello["missing"], note=notes.append, clock=pool.clock)
    assert len(list(driver.parts())) == 200
    assert notes.count("a worker did not get ready: another kind") == STARTS
    assert notes[-1] == "1 of 4 workers are left out until one gets ready"


def test_a_worker_that_gets_ready_lets_those_that_were_left_out_begin() -> None:
    broken = range(3, 3 + STARTS)  # and later mended; worker 0 is lost after a while
    pool = SimulatedPool(
        400,
        starts=lambda worker: "another kind" if worker in broken else "",
        dies=lambda worker, part: 0.5 if worker == 0 and part > 200 else None,
    )
    driver = Driver(pool, 4, lambda hello: hello["missing"], clock=pool.clock)
    assert len(list(driver.parts())) == 400
    assert driver.given_up == 0
    assert {worker for worker, _ in pool.given} == {0, 1, 2, 3 + STARTS, 4 + STARTS}


def test_settings_of_a_cluster_are_plain() -> None:
    asked = Execution(device="cpu", cluster=Cluster(ray="auto", workers=3, gpus_per_worker=0.5))
    plain = to_plain(asked)
    assert plain["cluster"]["gpus_per_worker"] == 0.5
    assert from_plain(Execution, json.loads(json.dumps(plain))) == asked


def test_parts_that_nobody_reads_leave_no_worker_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, closed = SimulatedPool(20, start_seconds=0.0), []
    known = {"plan": None, "models": {}, "parts": 20, "units": 20, "units_missing": 20}
    monkeypatch.setattr(pool, "hello", lambda: {**known, "missing": [*range(20)]})
    monkeypatch.setattr(pool, "arguments", {}, raising=False)
    monkeypatch.setattr(pool, "close", lambda: closed.append(True), raising=False)
    monkeypatch.setattr("engine.cluster.run.RayPool", lambda *_: pool)
    cluster = Cluster(ray="local", workers=2)
    parts = made_by_workers(cluster, PartWorker, {}, IMAGES, Events(lambda _: None))
    assert not closed
    del parts
    assert closed == [True]
    assert pool.stopped == {0, 1}


def test_a_cluster_says_once_a_minute_how_far_it_is() -> None:
    seen: list[Event] = []
    pool = SimulatedPool(20, seconds=lambda *_: 45.0, start_seconds=1.0)
    pool.close = lambda: None  # type: ignore[attr-defined]
    driver = Driver(pool, 2, lambda hello: hello["missing"], clock=pool.clock)
    hello = {"parts": 20, "units": 20, "units_missing": 20}
    parts = reported_parts(driver, pool, hello, IMAGES, Events(seen.append))
    assert next(parts) == (0, 0)
    assert len(list(parts)) == 20
    lines = [event for event in seen if isinstance(event, Summarised)]
    assert len(lines) == pytest.approx(20 * 45 / 2 / 60, abs=1)
    assert lines[0].text == "2 of 20 parts are done; 2 of 2 workers; about 7 min left"
    assert lines[-1].seconds_left is not None
    assert lines[-1].seconds_left < 120
