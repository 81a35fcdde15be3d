"""`ddis generate --share`, `ddis finish`, and the other commands on what they wrote."""

import json
from pathlib import Path

import pytest

from engine.apps.cli import main
from engine.datasets.dataset import read_dataset


@pytest.fixture
def asked(classifier_folder: Path, small_prior_folder: Path) -> list[str]:
    """The words of a short `ddis generate` of eight images in two parts, but for its folder."""
    models = ["--classifier", str(classifier_folder), "--prior", str(small_prior_folder)]
    few = ["--images-per-class", "4", "--steps", "2", "--batch", "4", "--classes", "dog", "horse"]
    return ["generate", *models, "--device", "cpu", *few]


@pytest.fixture
def finished(asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    out = tmp_path / "set"
    for share in ("1/2", "2/2"):
        assert main([*asked, "--out", str(out), "--share", share, "--quiet"]) == 0
    assert main(["finish", str(out), "--quiet"]) == 0
    capsys.readouterr()
    return out


def test_shares_say_what_is_left_and_what_to_run(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    assert main([*asked, "--out", str(out), "--share", "1/2", "--quiet"]) == 0
    said = capsys.readouterr().err
    assert "4 images made now; 1 of 2 parts" in said
    assert f"When the other 1 are, run: ddis finish {out}" in said
    assert main(["finish", str(out)]) == 2
    assert "lacks 1 of its 2 parts" in capsys.readouterr().err
    assert main([*asked, "--out", str(out), "--share", "2/2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parts_done"] == 2
    assert main(["finish", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["images"], printed["parts"], printed["orphans"]) == (8, 2, 0)
    assert (out / "contact_sheet.png").exists()
    page = (out / "report.html").read_text()
    assert all(label in page for label in ("dog", "horse"))
    assert json.loads((out / "run.json").read_text())["measured"]["images"] == 8


def test_finishing_says_what_the_classifier_makes_of_the_images_and_writes_the_page(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = finished / "report.html"
    written = page.read_bytes()
    page.unlink()
    assert main(["finish", str(finished), "--quiet"]) == 0
    said = capsys.readouterr().err
    assert "recognise" in said
    assert said.endswith(f"to look at them in a browser: {page}\n")
    assert page.read_bytes() == written
    page.unlink()
    monkeypatch.setattr("engine.apps.cli.closing.MOST_REPORTED", 7)
    assert main(["finish", str(finished), "--quiet"]) == 0
    said = capsys.readouterr().err
    assert said.endswith(f"to look at them in a browser: ddis report {finished}\n")
    assert not page.exists()


def test_another_request_is_refused_by_its_settings(
    asked: list[str], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*asked, "--out", str(finished), "--share", "1/2", "--seed", "1"]) == 2
    assert "seed is 0 there and 1 here" in capsys.readouterr().err
    assert main([*asked, "--out", str(finished)]) == 2
    assert "continue it with --share" in capsys.readouterr().err
    assert main([*asked, "--out", str(finished), "--share", "3/2"]) == 2
    assert "--share is '3/2', expected I/N" in capsys.readouterr().err
    for parts in (["--share", "1/2"], ["--ray", "local"], ["--runner", "share"]):
        assert main([*asked, "--out", "x", *parts, "--over-generate", "2"]) == 2
        runner = parts[-1] if parts[0] == "--runner" else parts[0][2:]
        assert f"--over-generate came with the runner '{runner}'" in capsys.readouterr().err


def test_a_record_makes_the_same_images_in_one_process(finished: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    config = str(finished / "run.json")
    assert main(["generate", "--config", config, "--out", str(again), "--quiet"]) == 0
    there = {row.key: file.read_bytes() for file, row in read_dataset(finished)}
    assert there == {row.key: file.read_bytes() for file, row in read_dataset(again)}


def test_other_commands_read_parts(
    finished: Path, classifier_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["select", str(finished), "--out", str(tmp_path / "kept"), "--by", "energy"]) == 0
    assert len(list(read_dataset(tmp_path / "kept"))) == 4
    assert main(["export", str(finished), "--out", str(tmp_path / "shards"), "--quiet"]) == 0
    assert (tmp_path / "shards" / "shard-00000.tar").exists()
    features = ["--features", f"classifier:{classifier_folder}", "--prd-clusters", "4"]
    capsys.readouterr()
    assert main(["evaluate", str(finished), "--reference", str(finished), *features, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["images"] == 8
