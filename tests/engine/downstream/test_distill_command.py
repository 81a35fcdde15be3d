"""`ddis distill`: its rows by default, the folder that it makes first, and what it refuses before that."""

import json
from pathlib import Path

import pytest

from engine import Sampling, generate
from engine.apps.cli import main
from engine.classifiers import load_classifier
from engine.datasets.manifest import read_manifest
from engine.datasets.run_record import made_with


@pytest.fixture
def command(tmp_path: Path, teacher_folder: Path) -> list[str]:
    """Options of a short run, all but the folder."""
    return [
        "--classifier",
        str(teacher_folder),
        "--device",
        "cpu",
        "--student",
        "resnet8",
        "--seeds",
        "1",
        "--epochs",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]


@pytest.fixture
def making(command, tmp_path: Path, small_prior_folder) -> list[str]:
    """The command that makes its folder first."""
    return [
        "distill",
        str(tmp_path / "made"),
        *command,
        "--images-per-class",
        "2",
        "--prior",
        str(small_prior_folder),
        "--steps",
        "2",
    ]


def test_a_folder_without_a_prior_has_no_plain_row(
    tmp_path: Path, make_set, command, capsys
) -> None:
    folder = make_set(tmp_path / "ours", 4)
    assert main(["distill", str(folder), *command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed["rows"]) == ["folder", "noise"]
    assert printed["distillation"]["epochs"] == 1
    assert "1 seed: the spread says little, expected 3 or more." in printed["warnings"]
    assert main(["distill", str(folder), *command]) == 0
    said = capsys.readouterr().err
    assert f"no row of the plain prior for {folder}: it was made without a prior" in said
    assert "was finished already: nothing was computed" in said
    assert said.count("warning: 1 seed: the spread says little") == 1
    assert main(["distill", str(folder), *command, "--seeds", "2"]) == 0
    assert "nothing was computed" not in capsys.readouterr().err
    assert main(["distill", str(tmp_path / "net"), *command]) == 2
    assert "is no data set folder" in capsys.readouterr().err


def test_the_plain_row_is_drawn_where_the_folders_prior_is_there(
    tmp_path: Path, small_prior_folder, command, capsys
) -> None:
    classifier, sampling = (
        load_classifier(tmp_path / "net", device="cpu"),
        Sampling(steps=2, batch=6),
    )
    for name, alignment in {"ours": {}, "bare": {"method": "plain"}}.items():
        for _ in generate(
            classifier,
            small_prior_folder,
            None,
            2,
            **alignment,
            sampling=sampling,
            out=tmp_path / name,
        ):
            pass
    for name, options, rows in (
        ("ours", [], ["folder", "plain", "noise"]),
        ("ours", ["--no-plain"], ["folder", "noise"]),
        ("ours", ["--plain", "none"], ["folder", "noise"]),
        ("bare", [], ["folder", "noise"]),  # its own images are the plain prior's
    ):
        out = tmp_path / f"{name}{len(options)}"
        asked = ["distill", str(tmp_path / name), *command, "--out", str(out), *options, "--json"]
        assert main(asked) == 0
        assert list(json.loads(capsys.readouterr().out)["rows"]) == rows
    assert made_with(tmp_path / "ours0" / "plain-images")["method"]["name"] == "plain"


def test_the_folder_is_made_first_where_that_is_asked(
    tmp_path: Path, teacher, making, capsys
) -> None:
    assert main([*making, "--json"]) == 0
    assert len(list(read_manifest(tmp_path / "made"))) == 2 * len(teacher.labels)
    first = json.loads(capsys.readouterr().out)["rows"]
    assert list(first) == ["folder", "plain", "noise"]
    assert made_with(tmp_path / "made")["method"]["sampling"]["cfg"] == 4
    assert main(making) == 0  # nothing is left to do
    making[making.index("--images-per-class") + 1] = "3"
    assert main(making) == 2
    assert "images_per_class is 2 there and 3 here" in capsys.readouterr().err


def test_a_made_folder_takes_the_options_of_generate(tmp_path: Path, making) -> None:
    options = [
        "--cfg",
        "2",
        "--alignment.scale",
        "0.3",
        "--generate-seed",
        "5",
        "--no-plain",
        "--json",
    ]
    assert main([*making, *options]) == 0
    made = made_with(tmp_path / "made")
    method = made["method"]
    assert (method["sampling"]["cfg"], method["alignment"]["scale"], made["seed"]) == (2, 0.3, 5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--images-per-class", "1"],
            "--images-per-class is 1, expected at least 2 without test images",
        ),
        (
            ["--test", "nowhere"],
            "there is no nowhere, expected a folder of images or a .parquet file",
        ),
        (["--original", "nowhere"], "there is no nowhere"),
        (["--plain", "nowhere"], "there is no nowhere"),
        (["--student", "vgg"], "--student is 'vgg', expected one of resnet8"),
        (["--domain", "photo"], "domain 'photo' was given without original or test images"),
        (["--out", "made"], "the folder that the images are made in, expected another"),
        (["--no-equal-sizes"], "--equal-sizes is False and --updates is 0, expected a number of"),
        (["--rows", "other"], "--rows has 'other', expected names, each once, with a path"),
    ],
)
def test_mistakes_are_told_before_images_are_made(
    tmp_path: Path, making, capsys, monkeypatch, options: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*making, *options]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_original_images_lacking_a_class_are_told_before_images_are_made(
    tmp_path: Path, making, make_parquet, capsys
) -> None:
    dogs = make_parquet(tmp_path / "dogs.parquet", 2, labels=("dog",))
    assert main([*making, "--original", str(dogs)]) == 2
    assert "the original images have no 'horse'" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--cfg", "2", "--generate-seed", "1"],
            "--cfg, --generate-seed came without --images-per-class",
        ),
        (["--alignment.scale", "2"], "--alignment.scale came without --images-per-class"),
        (
            ["--prior", "embedded", "--no-plain"],
            "--prior came with --plain none, expected --plain generate or",
        ),
        (["--prior", "embedded", "--plain", "x"], "--prior came with --plain x"),
        (["--held-out", "0.5", "--test", "x"], "--held-out came with --test, expected one of them"),
        (["--updates", "3"], "--epochs came with --updates 3, expected one of them: updates"),
    ],
)
def test_options_without_effect_are_refused(
    tmp_path: Path, command, capsys, options: list[str], said: str
) -> None:
    assert main(["distill", str(tmp_path / "ours"), *command, *options]) == 2
    assert said in capsys.readouterr().err
