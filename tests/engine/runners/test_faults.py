"""What goes wrong around a run: memory that runs out in any phase, clocks that are set back, damaged files."""

import errno
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.datasets.finish import finish
from engine.datasets.manifest import read_manifest
from engine.datasets.run_record import read_run
from engine.errors import EngineError, OutputError
from engine.events import SILENT, Event, Events, Summarised
from engine.files import OURS, TEMPORARY, explained, read_object
from engine.memory.budget import MemoryWarning
from engine.memory.micro_batch import MicroBatches, OutOfMemoryError
from engine.request import ClassifierSource, Execution, PriorSource, Request
from engine.runners.generate import generate
from engine.runners.registry import runner_for
from engine.runners.summary import Summary
from engine.settings import Sampling
from engine.settings.methods import DDIS, Plain

PHASES = ("text", "sampling", "guidance", "decode")
ERRORS = (MemoryError("no memory"), torch.OutOfMemoryError("CUDA out of memory"))


@pytest.fixture
def request_(classifier_folder: Path, small_prior_folder: Path) -> Request:
    """Eight images of two classes, in two groups."""
    return Request(
        classifier=ClassifierSource(source=str(classifier_folder)),
        prior=PriorSource(source=str(small_prior_folder)),
        method=DDIS(sampling=Sampling(steps=2, batch=4)),
        classes=("dog", "horse"),
        images_per_class=4,
        seed=3,
    )


@pytest.fixture
def runs_out(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, BaseException], list[int]]:
    """runs_out(phase, error): the phase's next work on several images raises the error, once. Gives their numbers."""

    def arrange(phase: str, error: BaseException) -> list[int]:
        failed: list[int] = []
        attempt = MicroBatches.attempt

        def attempted(parts: MicroBatches, name: str, images: int, work: Any) -> Any:
            def failing(size: int) -> Any:
                if name == phase and size > 1 and not failed:
                    failed.append(size)
                    raise error
                return work(size)

            return attempt(parts, name, images, failing)

        monkeypatch.setattr(MicroBatches, "attempt", attempted)
        return failed

    return arrange


def run(request: Request, out: Path, events: Events = SILENT, share: str | None = None) -> int:
    execution = Execution(device="cpu", share=share)
    return sum(1 for _ in runner_for(execution, out, events).run(request))


@pytest.mark.parametrize(
    "error",
    [pytest.param(ERRORS[0], id="MemoryError", marks=pytest.mark.slow), ERRORS[1]],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("phase", PHASES)
def test_memory_that_runs_out_in_any_phase_costs_no_image(
    request_: Request, tmp_path: Path, runs_out, phase: str, error: BaseException
) -> None:
    failed = runs_out(phase, error)
    with pytest.warns(MemoryWarning, match=f"memory ran out in phase '{phase}'"):
        assert run(request_, tmp_path / "set") == 8
    assert failed
    measured = json.loads((tmp_path / "set" / "run.json").read_text())["measured"]
    assert measured["micro_batches"][-1]["sizes"][phase] == failed[0] // 2
    assert len(list((tmp_path / "set").rglob("*.png"))) == 8 + 1


def test_a_run_that_shrank_and_was_cut_says_so_once_it_is_resumed(
    request_: Request, tmp_path: Path, runs_out, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, execution = tmp_path / "set", Execution(device="cpu")
    runs_out("guidance", ERRORS[0])
    images = runner_for(execution, out).run(request_)
    with pytest.warns(MemoryWarning):
        first = next(images)
    images.close()  # type: ignore[attr-defined]
    monkeypatch.undo()
    assert run(request_, out) == 7
    made = json.loads((out / "run.json").read_text())["measured"]["micro_batches"]
    assert made[0]["from"] == {"class": first.key.class_index, "index": 0}
    assert made[0]["sizes"]["guidance"] == 2
    assert made[-1]["sizes"].get("guidance", 4) == 4
    assert not list(out.glob(f"{OURS}course*"))
    # Images that are lost from a finished folder are made again, and what was known stays.
    max(out.glob("images/dog/*.png")).unlink()
    assert run(request_, out) == 1
    assert json.loads((out / "run.json").read_text())["measured"]["micro_batches"] == made


def test_a_run_on_two_machines_names_both_kinds(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = replace(request_, method=Plain(sampling=Sampling(steps=1, batch=4)))
    out = tmp_path / "set"
    images = runner_for(Execution(device="cpu"), out).run(plain)
    made = [next(images) for _ in range(4)]
    images.close()  # type: ignore[attr-defined]
    monkeypatch.setattr("platform.machine", lambda: "another")
    assert run(plain, out) == 4
    kinds = json.loads((out / "run.json").read_text())["measured"]["kinds"]
    assert len(kinds) == 2
    assert kinds[0]["kind"]["processor"] != "another"
    assert kinds[1]["kind"]["processor"] == "another"
    keys = {(sample.key.class_index, sample.key.index) for sample in made}
    begins = [(kind["from"]["class"], kind["from"]["index"]) for kind in kinds]
    assert [begin in keys for begin in begins] == [True, False]


def test_images_made_again_on_another_machine_are_listed(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = replace(request_, method=Plain(sampling=Sampling(steps=1, batch=4)))
    out = tmp_path / "set"

    def kinds() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((out / "run.json").read_text())["measured"][
            "kinds"
        ]
        return found

    assert run(plain, out) == 8
    before = kinds()
    assert len(before) == 1
    monkeypatch.setattr("platform.machine", lambda: "another")
    for index in (0, 2):
        (found,) = out.glob(f"images/dog/*{index}.png")
        found.unlink()
        assert run(plain, out) == 1
    first, again = kinds()
    assert first == before[0]
    assert again["kind"]["processor"] == "another"
    assert [image["index"] for image in again["images"]] == [0, 2]
    assert len({image["class"] for image in again["images"]}) == 1
    monkeypatch.undo()  # back on the first machine
    found.unlink()
    assert run(plain, out) == 1
    *_, back = kinds()
    assert back["kind"] == first["kind"]
    assert back["images"] == again["images"][1:]
    assert len(kinds()) == 3


@pytest.mark.parametrize("name", ["manifest.parquet", "run.json"])
def test_a_record_that_cannot_be_read_is_not_taken_for_damaged(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    plain = replace(request_, method=Plain(sampling=Sampling(steps=1, batch=8)))
    out = tmp_path / "set"
    run(plain, out)
    monkeypatch.setattr("engine.datasets.manifest.pq.ParquetFile", fails)
    if name == "run.json":
        monkeypatch.setattr(Path, "read_bytes", fails)
    with pytest.raises(OutputError, match=rf"cannot read .*{name}: Input/output error") as raised:
        list(read_manifest(out)) if name != "run.json" else read_run(out)
    assert "delete it" not in str(raised.value)


def test_a_share_never_shrinks_and_the_same_command_makes_the_rest(
    request_: Request, tmp_path: Path, runs_out, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(request_, tmp_path / "calm", share="1/1")
    finish(tmp_path / "calm")
    out = tmp_path / "set"
    images = runner_for(Execution(device="cpu", share="1/1"), out).run(request_)
    next(images)
    failed = runs_out("guidance", ERRORS[0])
    with pytest.raises(OutOfMemoryError, match=r"phase 'guidance' with 4 images.*Plan for less"):
        list(images)
    assert failed == [4]
    monkeypatch.undo()
    assert run(request_, out, share="1/1") == 4
    finish(out)
    assert bytes_of(out) == bytes_of(tmp_path / "calm")


def test_a_clock_that_is_set_back_changes_nothing(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = replace(request_, method=Plain(sampling=Sampling(steps=1, batch=4)))
    run(plain, tmp_path / "calm", share="1/1")
    finish(tmp_path / "calm")
    hours = itertools.count()
    monkeypatch.setattr(time, "time", lambda: 1e9 - 3600 * next(hours))
    monkeypatch.setattr(time, "time_ns", lambda: 10**18 - 3600 * 10**9 * next(hours))
    for share in ("2/2", "1/2"):
        run(plain, tmp_path / "set", share=share)
    unfinished = tmp_path / "set" / "parts" / "000" / f"{TEMPORARY}of-another-writer"
    unfinished.touch()
    finish(tmp_path / "set")
    assert next(hours) > 0
    unfinished.unlink()  # it may be alive: how old it is cannot be known
    assert bytes_of(tmp_path / "set") == bytes_of(tmp_path / "calm")


def test_a_share_says_once_a_minute_how_far_it_is(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = itertools.count(step=13)
    monkeypatch.setattr(
        "engine.runners.share.Summary",
        lambda *arguments: Summary(*arguments, clock=lambda: float(next(now))),
    )
    request = replace(request_, method=Plain(sampling=Sampling(steps=6, batch=2)))
    seen: list[Event] = []
    run(request, tmp_path / "set", Events(seen.append), share="1/1")
    lines = [event for event in seen if isinstance(event, Summarised)]
    assert [line.done for line in lines] == sorted(line.done for line in lines)
    first, last = lines[0], lines[-1]
    assert (first.done, first.seconds_left) == (0, None)
    assert first.text == "0 of 4 parts are done; time left not known yet"
    assert last.done >= 2
    assert last.seconds_left is not None
    assert "min left" in last.text or "a minute left" in last.text
    said = json.loads(last.to_json())
    assert said["event"] == "summary"
    assert (said["done"], said["total"]) == (last.done, 4)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(30, "a minute left"), (600, "about 10 min left"), (4 * 3600 + 120, "about 4 h 2 min left")],
)
def test_the_time_left_is_said_in_words(seconds: float, words: str) -> None:
    line = Summarised("images", 1200, 20_000, seconds, "63 of 64 workers, 1 lost")
    assert line.text == f"1,200 of 20,000 parts are done; 63 of 64 workers, 1 lost; {words}"


@pytest.mark.parametrize(
    "damage", [lambda old: old[: len(old) // 2], lambda old: old[:9] + b"\0" + old[10:]]
)
@pytest.mark.parametrize("name", ["run.json", "manifest.parquet"])
def test_damaged_records_are_named_with_the_remedy(
    classifier, small_prior, tmp_path: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    def again() -> int:
        images = generate(
            classifier, small_prior, ["dog"], 2, sampling=Sampling(steps=2), out=tmp_path / "set"
        )
        return sum(1 for _ in images)

    assert again() == 2
    assert again() == 0
    path = tmp_path / "set" / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        OutputError, match=rf"{name} is .*expected .*(delete it|move this one away)"
    ):
        again()


def test_a_flipped_bit_of_a_manifest_is_found_or_changes_no_row(
    classifier, small_prior, tmp_path: Path
) -> None:
    def rows() -> list[dict[str, Any]]:
        return [vars(row) | {"logits": row.logits.tolist()} for row in read_manifest(tmp_path)]

    for _ in generate(
        classifier, small_prior, ["dog"], 2, sampling=Sampling(steps=2), out=tmp_path
    ):
        pass
    path = tmp_path / "manifest.parquet"
    whole, expected, found = path.read_bytes(), rows(), 0
    for place in range(4, len(whole), len(whole) // 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            assert rows() == expected, f"byte {place} of {len(whole)}"
        except OutputError as error:
            found += "manifest.parquet is damaged" in str(error)
    assert found > 20


def test_a_damaged_object_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "measures.json"
    for content in (b'{"accuracy": 0.', b"[]", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(OutputError, match=r"measures.json is damaged.*: delete it\."):
            read_object(path, "delete it")
    with pytest.raises(EngineError, match=r"measures\.json"), explained(path):
        read_object(tmp_path / "none" / "measures.json", "delete it")


def bytes_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
