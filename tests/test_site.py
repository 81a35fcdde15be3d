"""The site builds without a warning, and the page of one's own classifier does what it says, line by line."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from engine.apps.cli import main

ROOT = Path(__file__).resolve().parents[1]
OWN = ROOT / "docs" / "own-classifier.md"
BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
SHORTER = {"generate": ["--steps", "2"]}
"""What makes a command of the page quick: the number of steps changes nothing that it shows."""


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
    assert "Yield images distributed like" in (tmp_path / "python.html").read_text()


def test_every_page_is_in_the_navigation() -> None:
    def entries(value: object) -> list[str]:
        if isinstance(value, str):
            return [value]
        parts = value.values() if isinstance(value, dict) else value
        return [page for part in parts for page in entries(part)]  # type: ignore[union-attr]

    pages = entries(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(pages) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


@pytest.mark.slow
def test_one_s_own_classifier_from_the_page_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = OWN.read_text()
    run = 0
    for language, block in BLOCK.findall(text):
        if language == "python":
            exec(compile(block, str(OWN), "exec"), {})
        elif language == "yaml":
            Path("mine.yaml").write_text(block)
        else:
            for line in block.strip().splitlines():
                program, name, *words = shlex.split(line)
                assert program == "ddis"
                assert main([name, *words, *SHORTER.get(name, [])]) == 0, line
                run += 1
    assert run == 5
    assert (tmp_path / "out" / "mine" / "report.html").exists()
    assert (tmp_path / "out" / "student" / "report.json").exists()
    (again,) = re.findall(r"`(ddis generate --config out/mine/run\.json[^`]*)`", text)
    assert main(shlex.split(again)[1:]) == 0
    pictures = sorted((tmp_path / "out" / "mine" / "images").rglob("*.png"))
    assert len(pictures) == 28
    for picture in pictures:
        twin = Path(str(picture).replace("/mine/", "/again/"))
        assert twin.read_bytes() == picture.read_bytes()
