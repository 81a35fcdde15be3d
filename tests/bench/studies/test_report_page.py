"""The study of the report's page writes a set, opens its page in a browser and keeps what that took."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from engine.datasets.dataset import read_dataset


def test_a_set_has_the_classes_and_images_that_are_asked_for(
    tmp_path: Path, bench_script: Callable[[str], ModuleType]
) -> None:
    study = bench_script("studies.report_page")
    study.write_set(tmp_path / "set", 7, 3, 8)
    rows = [row for _, row in read_dataset(tmp_path / "set")]
    assert [row.class_index for row in rows] == [0, 0, 0, 1, 1, 2, 2]
    assert len({(tmp_path / "set" / row.path).read_bytes() for row in rows}) == 7


@pytest.mark.slow
def test_the_page_is_opened_and_measured(
    tmp_path: Path,
    bench_script: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = bench_script("studies.report_page")
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not any(map(shutil.which, study.BROWSERS)):
        pytest.skip("no Chromium on the path: apt-get install chromium")
    out, page = tmp_path / "result.json", tmp_path / "page.html"
    words = ["--images", "6", "--classes", "2", "--px", "8", "--opened", "1"]
    monkeypatch.setattr(
        sys, "argv", ["report_page", *words, "--out", str(out), "--keep", str(page)]
    )
    study.main()
    result = json.loads(out.read_text())
    assert result["page"]["bytes"] == page.stat().st_size
    assert result["page"]["open_cpu_seconds"] > 0
    assert 0 < result["page"]["open_seconds"] <= result["page"]["slowest_open_seconds"]
