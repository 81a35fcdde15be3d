"""The study of faults sees what is wrong, counts what is right, and tries every command and kind of file."""

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from engine.errors import EngineError
from engine.files import write_whole


@pytest.fixture
def part(bench_script: Callable[[str], ModuleType]) -> Callable[[str], Any]:
    """part("damage"): one of the study's modules."""
    return lambda name: bench_script(f"studies.fault_kinds.{name}")


def test_a_count_keeps_a_line_on_what_was_wrong(part) -> None:
    count = part("trials").Count("a command")
    count.add("one line")
    count.add("one line")
    count.add("both", ["half a file", "two lines"])
    assert count.row() == {
        "tried": "a command",
        "times": 3,
        "as_promised": 2,
        "ways": {"one line": 2},
        "wrong": ["both: half a file; two lines"],
    }


def test_a_full_disk_leaves_half_of_what_was_written(
    part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", os.fsync)  # put back afterwards
    part("writing").fills_up(2, tmp_path / "log")()
    with (tmp_path / "file").open("wb") as file:
        for size in (100, 300):
            file.truncate(size)
            if size == 100:
                os.fsync(file.fileno())
                continue
            with pytest.raises(OSError, match="No space left"):
                os.fsync(file.fileno())
    assert (tmp_path / "file").stat().st_size == 200
    assert (tmp_path / "log").read_bytes() == b".."
    assert part("writing").some(range(1, 11), 3) == [1, 5, 10]


def test_two_writers_are_counted(part, tmp_path: Path) -> None:
    count = part("writing").two_writers(SimpleNamespace(room=lambda: tmp_path), 3)
    assert (count.ways, count.wrong) == ({"both wrote it whole": 3}, [])


@pytest.mark.parametrize("checks", [True, False])
def test_a_file_that_is_read_wrongly_is_seen(
    part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checks: bool
) -> None:
    module = part("damage")
    (tmp_path / "folder").mkdir()
    file = tmp_path / "folder" / "some.json"
    write_whole(file, b"0123")

    def read(path: Path) -> bytes:
        if checks and path.read_bytes() != b"0123":
            raise EngineError(f"{path} is damaged")
        return path.read_bytes()

    kind = module.Kind(file, read, None, ("some.json",))
    monkeypatch.setattr(module, "kinds", lambda place: {"some": kind})
    count = module.damage(SimpleNamespace(room=lambda: tmp_path), "some", 3, 2)
    assert count.ways.total() == (5 if checks else 0)
    assert len(count.wrong) == (0 if checks else 5)
    assert file.read_bytes() == b"0123"


def test_each_damage_is_one(part) -> None:
    content = bytes(range(50))
    made = [new for _, new in part("damage").damaged(content, 20, 5, random.Random(0))]
    for flipped in made[:20]:
        (bits,) = [a ^ b for a, b in zip(content, flipped, strict=True) if a != b]
        assert bits.bit_count() == 1
    for cut in made[20:]:
        assert content.startswith(cut)
        assert len(cut) < len(content)


@pytest.mark.slow
def test_rows_are_kept_by_their_names_and_not_counted_again(
    bench_script: Callable[[str], ModuleType],
    part,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    study, out = bench_script("studies.faults"), tmp_path / "faults.json"
    with part("trials").a_place() as place:
        assert {*study.WRITING} == place.commands(tmp_path).keys()
        assert {*study.DAMAGED} == part("damage").kinds(place).keys()
    words = ["faults", "--out", f"{out}", "--only"]
    few = ["damaged file: parts.json", "disk full: learn-tokens", "out of memory: learn-tokens"]
    smoke = study.trials(smoke=True)
    monkeypatch.setattr(study, "trials", lambda smoke_: smoke)
    monkeypatch.setattr(sys, "argv", [*words, "two writers", "--smoke"])
    study.main()
    assert not out.exists()
    monkeypatch.setattr(sys, "argv", [*words, *few])
    study.main()
    rows = study.Rows(out, {}, "cpu")._read()["rows"]
    assert {*rows} == {*few}
    for row in rows.values():
        assert (row["times"], row["wrong"]) == (row["as_promised"], [])
    capsys.readouterr()
    study.main()
    assert "{'tried'" not in capsys.readouterr().out
