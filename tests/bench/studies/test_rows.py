"""Processes that fill one file keep each other's rows, and a row is kept as long as it is still true."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

SETTINGS = {"prior": "a", "sizes": (1, 2)}


@pytest.fixture
def rows(bench_script: Callable[[str], ModuleType]) -> ModuleType:
    """The script as a module."""
    return bench_script("studies.rows")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "results" / "result.json"


def test_processes_that_fill_one_file_keep_each_others_rows(rows: ModuleType, file: Path) -> None:
    names = [f"{process}/{number}" for process in range(3) for number in range(12)]
    result, children = rows.Rows(file, SETTINGS, "cpu", names), []
    for process in range(3):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for number in range(12):
                    result.add(f"{process}/{number}", {"value": number})
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 3
    written = json.loads(file.read_text())
    assert list(written) == ["settings", "environment", "rows"]
    assert written["rows"] == {name: {"value": int(name.split("/")[1])} for name in names}
    assert list(written["rows"]) == names  # whoever was first
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_another_process_waits_for_a_folder(rows: ModuleType, tmp_path: Path) -> None:
    with rows.alone(tmp_path):
        child = os.fork()
        if child == 0:
            with rows.alone(tmp_path):
                (tmp_path / "second").write_bytes((tmp_path / "first").read_bytes())
            os._exit(0)
        time.sleep(0.05)
        (tmp_path / "first").write_text("x")
    assert os.waitpid(child, 0)[1] == 0
    assert (tmp_path / "second").read_text() == "x"


def test_a_row_is_kept_while_all_that_it_depends_on_is_the_same(
    rows: ModuleType, file: Path
) -> None:
    made_by = {"token_file": "one", "alignment": {"window": (0.0, 0.5)}}
    result = rows.Rows(file, SETTINGS, "cpu")
    row = result.kept("both/photo", made_by)
    assert row == {"token_file": "one", "alignment": {"window": [0.0, 0.5]}}
    result.add("both/photo", row | {"fid": 3.0})
    assert rows.Rows(file, SETTINGS, "cpu").kept("both/photo", made_by)["fid"] == 3.0
    other = {**made_by, "token_file": "two"}
    assert result.kept("both/photo", other) == {**row, "token_file": "two"}
    assert result.kept("both/photo")["fid"] == 3.0
    assert result.kept("both/sketch") == {}


def test_rows_of_other_settings_are_not_kept(rows: ModuleType, file: Path) -> None:
    rows.Rows(file, SETTINGS, "cpu").add("old", {"value": 1})
    before = file.read_bytes()
    result = rows.Rows(file, {**SETTINGS, "prior": "b"}, "cpu")
    assert result.others == {"prior": "a", "sizes": [1, 2]}
    assert result.kept("old") == {}
    assert file.read_bytes() == before  # until there is a row
    result.add("new", {"value": 2})
    assert json.loads(file.read_text())["rows"] == {"new": {"value": 2}}
    assert rows.Rows(file, {**SETTINGS, "prior": "b"}, "cpu").others == {}


def test_two_processes_of_other_settings_do_not_take_turns(rows: ModuleType, file: Path) -> None:
    first, second = (
        rows.Rows(file, SETTINGS, "cpu"),
        rows.Rows(file, {**SETTINGS, "prior": "b"}, "cpu"),
    )
    first.add("one", {})
    with pytest.raises(
        SystemExit, match=r"other settings by another process, expected .*'b'.*: name another --out"
    ):
        second.add("two", {})
    assert list(json.loads(file.read_text())["rows"]) == ["one"]
