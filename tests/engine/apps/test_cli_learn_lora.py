"""`ddis learn-lora` of a finished data set: its settings and its models, but for what flags say."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.apps.cli.program import main
from engine.datasets.run_record import read_run
from engine.facts import request_of
from engine.runners import learn_lora
from engine.runners.learn_lora import LearnedLora


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("made") / "photo"
    words = ["--classifier", "embedded:photo", "--classes", "dog", "--images-per-class", "1"]
    assert main(["generate", *words, "--steps", "2", "--seed", "9", "--out", str(made)]) == 0
    return made


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the command asks of `learn_lora`, which learns nothing."""
    calls: list[dict[str, Any]] = []

    def learn(request: Any, **arguments: Any) -> LearnedLora:
        calls.append({"request": request, **arguments})
        return LearnedLora(
            file=arguments["out"], images=1, updates=1, error_before=1, error_after=1
        )

    monkeypatch.setattr(learn_lora, "learn_lora", learn)
    return calls


def test_a_data_set_says_what_is_learned(
    tmp_path: Path, folder: Path, asked: list[dict[str, Any]]
) -> None:
    out = tmp_path / "l.safetensors"
    flags = ["--images-per-class", "3", "--lora.rank", "2"]
    assert main(["learn-lora", str(folder), *flags, "--out", str(out), "--quiet"]) == 0
    (call,) = asked
    made, models = request_of(read_run(folder).made, folder)
    assert call["request"] == replace(made, images_per_class=3)
    assert call["learning"].rank == 2
    assert call["expected"] == models
    assert models["classifier"]["name"] == "embedded:photo"


def test_a_classifier_that_a_flag_names_need_not_be_the_data_sets(
    tmp_path: Path, folder: Path, asked: list[dict[str, Any]]
) -> None:
    other = ["--classifier", "embedded:sketch", "--out", str(tmp_path / "l.safetensors")]
    assert main(["learn-lora", str(folder), *other, "--quiet"]) == 0
    assert asked[0]["request"].classifier.source == "embedded:sketch"
    assert "classifier" not in asked[0]["expected"]
    assert "prior" in asked[0]["expected"]


def test_a_folder_that_says_nothing_is_refused(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "l.safetensors")]
    assert main(["learn-lora", str(tmp_path), *out]) == 2
    assert "has no run.json, expected a data set of `ddis generate`" in capsys.readouterr().err
    assert main(["learn-lora", str(folder), "--config", str(folder / "run.json"), *out]) == 2
    assert "expected one of them" in capsys.readouterr().err
    assert main(["learn-lora", *out]) == 2
    assert "--classifier is missing" in capsys.readouterr().err
