"""bench/guidance_study.py runs, writes what it says, and goes on where it stopped."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, BENCH / script, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_variants_of_guidance_are_measured_once_each(tmp_path: Path) -> None:
    out = tmp_path / "study.json"
    asked = ("guidance_study.py", "--domains", "photo", "--images", 1, "--work", tmp_path, "--out", out)
    run(*asked, "--variants", "default")
    printed = run(*asked, "--variants", "default", "plain")
    assert "plain/photo" in printed
    assert "default/photo" not in printed
    rows = json.loads(out.read_text())["rows"]
    assert list(rows) == ["default/photo", "plain/photo"]
    assert rows["plain/photo"]["settings"]["alignment"] is None
    for row in rows.values():
        assert row["images"] == row["shares"]["images"] == 7
        assert row["metrics"]["fid"]["low"] <= row["metrics"]["fid"]["high"]
    assert rows["default/photo"]["flops_per_image"] > rows["plain/photo"]["flops_per_image"]
