"""A run in shares: the images of one process, made once, by whatever number of processes, killed or not."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.datasets.dataset import read_dataset
from engine.datasets.finish import finish
from engine.datasets.parts import done_parts
from engine.datasets.store import FolderStore
from engine.errors import ConfigError, OutputError
from engine.events import Event, Events, Finished, Progressed, Started, Stepped
from engine.memory.micro_batch import OutOfMemoryError
from engine.methods.kind import canary_of, kind_of
from engine.methods.models import Models
from engine.methods.registry import prepare
from engine.request import ClassifierSource, Execution, PriorSource, Request
from engine.runners.local import LocalRunner
from engine.runners.registry import runner_for
from engine.settings import Sampling
from engine.settings.inversion import DeepInversion
from engine.settings.methods import DDIS, Plain

PARTS = 4


@pytest.fixture
def request_(classifier_folder: Path, small_prior_folder: Path) -> Request:
    """Twelve images of four classes, in four groups."""
    return Request(
        classifier=ClassifierSource(source=str(classifier_folder)),
        prior=PriorSource(source=str(small_prior_folder)),
        method=DDIS(sampling=Sampling(steps=3, batch=3)),
        classes=("dog", "horse", "house", "person"),
        images_per_class=3,
        seed=3,
    )


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "set"


def execution(share: str | None, mixed: bool = False) -> Execution:
    return Execution(device="cpu", share=share, mixed=mixed)


def made(request: Request, out: Path, share: str, **options: bool) -> int:
    return sum(1 for _ in runner_for(execution(share, **options), out).run(request))


def bytes_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_shares_make_the_images_of_one_process(request_: Request, tmp_path: Path) -> None:
    assert sum(1 for _ in LocalRunner(tmp_path / "one", execution(None)).run(request_)) == 12
    counts = [made(request_, tmp_path / "shared", f"{number}/3") for number in (2, 3, 1)]
    assert sum(counts) == 12
    assert max(counts) == 6
    found = finish(tmp_path / "shared")
    assert (found.images, found.parts, len(found.kinds)) == (12, PARTS, 1)
    alone = {row.key: (file.read_bytes(), row) for file, row in read_dataset(tmp_path / "one")}
    for file, row in read_dataset(tmp_path / "shared"):
        image, expected = alone.pop(row.key)
        assert file.read_bytes() == image
        assert row.logits.tobytes() == expected.logits.tobytes()
        for name in vars(row).keys() - {"path", "logits"}:
            assert getattr(row, name) == getattr(expected, name)
    assert not alone


def test_the_number_of_shares_changes_no_byte(request_: Request, tmp_path: Path) -> None:
    for count in (1, 2):
        for number in range(count):
            made(request_, tmp_path / str(count), f"{number + 1}/{count}")
        finish(tmp_path / str(count))
    assert bytes_of(tmp_path / "1") == bytes_of(tmp_path / "2")


def test_what_is_done_is_not_made_again(request_: Request, out: Path) -> None:
    images = runner_for(execution("1/1"), out).run(request_)
    for _ in range(4):
        next(images)
    images.close()  # as an interruption does
    done = done_parts(FolderStore(out))
    assert done == {0, 1}
    seen = []
    runner = runner_for(execution("1/1"), out, Events(seen.append))
    assert sum(1 for _ in runner.run(request_)) == 6
    (started,) = [event for event in seen if isinstance(event, Started)]
    assert (started.total, started.done) == (12, 6)
    assert any(isinstance(event, Finished) for event in seen)
    assert made(request_, out, "1/1") == 0


def test_what_another_process_made_meanwhile_is_not_made_again(
    request_: Request, out: Path
) -> None:
    seen: list[Event] = []
    images = runner_for(execution("1/1"), out, Events(seen.append)).run(request_)
    first = [next(images) for _ in range(3)]
    assert made(request_, out, "1/1") == 9
    steps = [event for event in seen if isinstance(event, Stepped)]
    assert list(images) == []
    assert [event for event in seen if isinstance(event, Stepped)] == steps
    units = [event.units for event in seen if isinstance(event, Progressed)]
    assert sum(units) + len(first) == 12


def test_images_drawn_in_vain_are_counted_once(
    request_: Request, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process writes each part while this one draws it."""
    monkeypatch.setattr("engine.datasets.shared.SharedDataset.write", lambda *_: False)
    seen: list[Event] = []
    assert list(runner_for(execution("1/1"), out, Events(seen.append)).run(request_)) == []
    steps = sum(event.images / event.total for event in seen if isinstance(event, Stepped))
    units = sum(event.units for event in seen if isinstance(event, Progressed))
    assert steps + units == pytest.approx(12)


@pytest.mark.slow
def test_a_killed_share_and_another_one_end_in_the_same_bytes(
    request_: Request, tmp_path: Path
) -> None:
    made(request_, tmp_path / "calm", "1/1")
    finish(tmp_path / "calm")
    config = tmp_path / "request.json"
    config.write_text(__import__("json").dumps({"request": request_.to_plain()}))
    code = (
        "import json, sys, torch; torch.set_num_threads(1)\n"
        "from engine.request import Request, Execution\n"
        "from engine.runners.registry import runner_for\n"
        "torch.use_deterministic_algorithms(True, warn_only=True)\n"
        "request = Request.from_plain(json.load(open(sys.argv[1]))['request'])\n"
        "for _ in runner_for(Execution(device='cpu', share='1/1'), sys.argv[2]).run(request): pass\n"
    )
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", code, str(config), str(out)])
    try:
        while process.poll() is None and not list((out / "parts").rglob("*.parquet")):
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert made(request_, out, "1/1") < 12
    finish(out)
    assert bytes_of(out) == bytes_of(tmp_path / "calm")


def test_a_worker_of_another_kind_is_found_by_its_canary(request_: Request, out: Path) -> None:
    made(request_, out, "1/2")
    other = replace(request_, method=replace(request_.method))
    prepared = prepare(other, Models(other, execution(None)), execution(None))
    kind = kind_of(prepared)
    assert kind.canary == canary_of(prepared)
    assert kind.reproducible
    assert kind.threads == torch.get_num_threads()
    prepared.micro_batches.sizes["guidance"] = 1  # a plan for less memory
    assert canary_of(prepared) != kind.canary


def test_kinds_are_refused_or_mixed_when_asked(
    request_: Request, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(request_, out, "1/2")
    monkeypatch.setattr("engine.methods.kind.canary_of", lambda _: "another12345")
    with pytest.raises(OutputError, match="another kind"):
        made(request_, out, "2/2")
    assert made(request_, out, "2/2", mixed=True) == 6
    assert sorted(finish(out).kinds.values()) == [6, 6]


@pytest.mark.parametrize(
    "settings",
    [
        Plain(sampling=Sampling(steps=2, batch=3)),
        DeepInversion(batch=3, iterations=2),
    ],
)
def test_other_methods_are_shared_as_well(request_: Request, out: Path, settings) -> None:
    request = replace(request_, method=settings)
    if isinstance(settings, DeepInversion):
        request = replace(request, prior=PriorSource())
    assert made(request, out, "1/2") + made(request, out, "2/2") == 12
    assert finish(out).images == 12


def test_memory_that_runs_out_hands_the_part_back(
    request_: Request, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = runner_for(execution("1/1"), out).run(request_)
    next(images)

    def out_of_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("engine.methods.drawing.drawn", out_of_memory)
    monkeypatch.setattr("engine.methods.drawing.finished", out_of_memory)
    monkeypatch.setattr("engine.methods.drawing.drawn", lambda *_: torch.zeros(3, 4, 4, 4))
    with pytest.raises(OutOfMemoryError, match="Plan for less"):
        list(images)
    monkeypatch.undo()
    assert made(request_, out, "1/1") == 9


@pytest.mark.parametrize("share", ["0/3", "4/3", "3", "a/b", "1/0", "", "-1/3"])
def test_shares_that_make_no_sense_are_refused(share: str) -> None:
    with pytest.raises(ConfigError, match="I/N"):
        Execution(share=share)


def test_a_share_needs_a_place(request_: Request) -> None:
    with pytest.raises(ConfigError, match="without out"):
        runner_for(execution("1/2"))
