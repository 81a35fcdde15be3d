"""A run that is killed at any moment and continued leaves the same bytes as an undisturbed one."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("writer_process.py")
KILLED = -signal.SIGKILL


class WriterProcess:
    """Talks to writer_process.py."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._answer() == "ready"

    def write(self, folder: Path, die_before: int = -1, kill_after_s: float = -1) -> int:
        """Exit code of a child that writes the data set into `folder`."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{folder} {die_before} {kill_after_s}\n")
        self.process.stdin.flush()
        return int(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=300)


@pytest.fixture(scope="module")
def writer():
    process = WriterProcess()
    yield process
    process.close()


@pytest.fixture(scope="module")
def undisturbed(writer, contents, tmp_path_factory):
    """Contents of a data set that nothing interrupted, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    start = time.perf_counter()
    assert writer.write(folder) == 0
    return contents(folder), time.perf_counter() - start


def test_an_undisturbed_run_leaves_no_hidden_file(undisturbed):
    files, _ = undisturbed
    assert sorted(name for name in files if not name.startswith("images/")) == [
        "contact_sheet.png",
        "labels.json",
        "manifest.parquet",
        "run.json",
    ]
    assert sum(name.endswith(".png") for name in files) == 4 + 1


def test_killed_at_20_random_moments(writer, undisturbed, contents, tmp_path):
    expected, duration_s = undisturbed
    moments = random.Random(20)
    codes = []
    for number in range(20):
        folder = tmp_path / str(number)
        codes.append(writer.write(folder, kill_after_s=moments.uniform(0, duration_s)))
        assert writer.write(folder) == 0
        assert contents(folder) == expected
    assert KILLED in codes


def test_killed_before_every_write_of_a_run(writer, undisturbed, contents, tmp_path):
    expected, _ = undisturbed
    for call in range(1000):
        folder = tmp_path / str(call)
        code = writer.write(folder, die_before=call)
        assert writer.write(folder) == 0
        assert contents(folder) == expected, f"differs after a kill before call {call}"
        if code == 0:
            break
        assert code == KILLED
    assert call > 4 * 4


def test_killed_again_and_again_in_one_folder(writer, undisturbed, contents, tmp_path):
    expected, _ = undisturbed
    kills = 0
    while writer.write(tmp_path / "run", die_before=5 + kills) == KILLED:
        kills += 1
        assert kills < 100, "a run that is killed never gets further"
    assert kills > 3
    assert contents(tmp_path / "run") == expected
