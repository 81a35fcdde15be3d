"""The site builds without a warning; what its pages say is tested in test_docs_blocks.py."""

import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

import engine

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir"]
    done = subprocess.run(
        [*command, tmp_path],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "--images-per-class" in (tmp_path / "commands.html").read_text()
    assert "GuidedScheduler" in (tmp_path / "examples.html").read_text()
    assert "expected 0 &lt;= start" in (tmp_path / "errors.html").read_text()
    assert "Yield images distributed like" in (tmp_path / "python.html").read_text()


def test_the_site_installs_nothing_of_the_developers(tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    command = ["make", "--dry-run", "docs", f"VENV={tmp_path}", f"PYTHON={sys.executable}"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "[docs" in said
    assert "[dev" not in said


def test_every_page_is_in_the_navigation() -> None:
    def entries(value: object) -> list[str]:
        if isinstance(value, str):
            return [value]
        parts = value.values() if isinstance(value, dict) else value
        return [page for part in parts for page in entries(part)]  # type: ignore[union-attr]

    pages = entries(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(pages) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


def test_every_public_name_is_on_the_page_of_python() -> None:
    shown = re.findall(r"^::: ([\w.]+)\.(\w+)$", (ROOT / "docs" / "python.md").read_text(), re.M)
    assert all(hasattr(import_module(home), name) for home, name in shown)
    names = {"profile" if name == "profile_step" else name for _, name in shown}
    assert names == {*engine.__all__}
