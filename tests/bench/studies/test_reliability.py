"""The study of reliability counts kills of a run that can be killed, keeps its counts and goes on with them."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from engine.files import write_whole


@pytest.fixture
def study(bench_script: Callable[[str], ModuleType]) -> ModuleType:
    return bench_script("studies.reliability")


def writes_four(out: Path) -> None:
    for number in range(4):
        if not (out / f"{number}.json").exists():
            time.sleep(0.01)
            write_whole(out / f"{number}.json", json.dumps({"number": number}).encode())


@pytest.mark.slow
def test_kills_are_counted_and_go_on_where_they_stopped(study: ModuleType) -> None:
    kept: list[dict[str, Any]] = []
    found = study.killed("run", writes_four, 3, keep=lambda counts: kept.append({**counts}))
    assert found["kills"] == 3
    assert found["runs"] == found["equal"] == len(kept) >= 1
    assert found["half_written"] == []
    assert kept[-1] == found
    more = study.killed("run", writes_four, 5, before=found)
    assert more["kills"] == 5
    assert more["runs"] == more["equal"] > found["runs"]
    assert study.killed("run", writes_four, 5, before=more) == more


def test_a_run_that_ends_otherwise_and_half_a_file_are_seen(study: ModuleType) -> None:
    def careless(out: Path) -> None:
        (out / "a.json").write_text(f'{{"time": {time.monotonic_ns()}')
        time.sleep(0.05)

    found = study.killed("run", careless, 2)
    assert found["equal"] == 0
    assert any(name.startswith("a.json") for name in found["half_written"])
