"""The command line: built from the configs, one clear error, exit code 2, nothing half-written."""

import json
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from engine.apps.options import alignment_of, config_of, learning_of, load_models, sampling_of

from engine.apps.cli import build_parser, main
from engine.apps.progress import Bar, Progress
from engine.classifiers import Preprocess, save_classifier
from engine.classifiers.cifar_resnet import CifarResNet
from engine.datasets.dataset import read_dataset
from engine.errors import ConfigError
from engine.networks.frozen import default_device
from engine.runners.start_word import IMAGES_PER_CLASS
from engine.settings import Alignment, Sampling, TokenLearning
from engine.tokens.state import Outcome, TokenEpoch
from engine.types import Step

LABELS = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")


@pytest.fixture
def models(
    tmp_path: Path, tiny_prior_folders: dict[str, Path], tiny_resnet: CifarResNet
) -> list[str]:
    folder = tmp_path / "classifier"
    save_classifier(
        folder, tiny_resnet, architecture="resnet8", labels=LABELS, preprocess=Preprocess.squash(16)
    )
    return [
        "--classifier",
        str(folder),
        "--prior",
        str(tiny_prior_folders["epsilon"]),
        "--device",
        "cpu",
    ]


def parsed(*arguments: str):
    return build_parser().parse_args(["generate", "--classifier", "x", "--out", "o", *arguments])


def test_every_field_of_the_configs_is_an_option() -> None:
    known = build_parser().parse_args(["generate", "--classifier", "x", "--out", "o"])
    assert config_of(known, Sampling()) == Sampling()
    assert alignment_of(known) == Alignment()
    for entry in fields(Alignment):
        assert f"--alignment-{entry.name.replace('_', '-')}" in _help()
    for entry in fields(Sampling):
        assert f"--{entry.name.replace('_', '-')}" in _help()


def _help() -> str:
    parser = build_parser()
    return parser._subparsers._group_actions[0].choices["generate"].format_help()


def test_options_change_the_fields_they_name() -> None:
    assert alignment_of(parsed("--alignment", "paper")) == Alignment.paper()
    assert alignment_of(parsed("--alignment", "none")) is None
    assert alignment_of(
        parsed("--alignment-scale", "0.4", "--alignment-norm", "l2_squared")
    ) == Alignment(scale=0.4, norm="l2_squared")
    assert alignment_of(
        parsed("--alignment-decoder", "full", "--alignment-decode-px", "-1")
    ) == Alignment(decoder="full", decode_px=-1)
    assert config_of(parsed("--steps", "8", "--cfg", "2.5"), Sampling()) == Sampling(
        steps=8, cfg=2.5
    )
    assert parsed("--classes", "dog", "tench, Tinca tinca").classes == ["dog", "tench, Tinca tinca"]


def test_no_library_remarks_on_being_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "engine", "--help"], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


def test_generate_prints_one_json_object(
    tmp_path: Path, models: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    asked = [
        "generate",
        *models,
        "--classes",
        "dog",
        "horse",
        "--images-per-class",
        "1",
        "--steps",
        "2",
    ]
    assert main([*asked, "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["images"] == printed["made_now"] == 2
    assert Path(printed["contact_sheet"]).is_file()
    assert main([*asked, "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["made_now"] == 0
    assert main([*asked, "--out", str(out), "--cfg", "3"]) == 2
    assert f"sampling.cfg is {Sampling().cfg} there and 3.0 here" in capsys.readouterr().err


def test_the_plain_method_is_the_prior_without_guidance(
    tmp_path: Path, models: list[str], capsys
) -> None:
    asked = [
        "generate",
        *models,
        "--classes",
        "dog",
        "--images-per-class",
        "2",
        "--steps",
        "2",
        "--json",
        "--out",
        str(tmp_path / "set"),
    ]
    assert main([*asked, "--method", "plain"]) == 0
    assert json.loads(capsys.readouterr().out)["made_now"] == 2
    assert main([*asked, "--alignment", "none"]) == 0
    assert json.loads(capsys.readouterr().out)["made_now"] == 0
    assert alignment_of(parsed("--method", "plain")) is None


def test_over_generation_keeps_the_number_that_was_asked_for(
    tmp_path: Path, models: list[str], capsys
) -> None:
    out = tmp_path / "set"
    asked = [
        "generate",
        *models,
        "--classes",
        "dog",
        "horse",
        "--images-per-class",
        "2",
        "--steps",
        "2",
        "--out",
        str(out),
        "--alignment",
        "none",
    ]
    assert main([*asked, "--over-generate", "1.6", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    every = tmp_path / "set-all"
    assert (printed["images"], printed["made_now"], printed["all"]) == (4, 6, str(every))
    classes = [row.class_index for _, row in read_dataset(out)]
    assert [classes.count(number) for number in (0, 4)] == [2, 2]
    assert json.loads((out / "run.json").read_text())["config"]["selection"]["by"] == "l_bn_share"
    (every / "images" / "dog" / "00002.png").unlink()
    next((out / "images" / "horse").iterdir()).unlink()
    assert main([*asked, "--over-generate", "1.6"]) == 0
    assert (
        f"6 images in {every}, 1 of them made now; the better 4 in {out}" in capsys.readouterr().err
    )
    assert all(path.exists() for path, _ in read_dataset(out))
    assert main(asked) == 2
    assert "holds images selected from another folder" in capsys.readouterr().err


def test_over_generation_refuses_before_it_makes_an_image(
    tmp_path: Path, models: list[str], capsys
) -> None:
    out = tmp_path / "set"
    asked = [
        "generate",
        *models,
        "--classes",
        "dog",
        "--images-per-class",
        "1",
        "--steps",
        "2",
        "--out",
        str(out),
        "--alignment",
        "none",
    ]
    for factor, message in (
        ("1", "--over-generate is 1, expected a number above 1"),
        ("nan", "--over-generate is nan, expected a number above 1"),
        ("1.2", "--over-generate 1.2 of 1 images a class makes no more"),
    ):
        assert main([*asked, "--over-generate", factor]) == 2
        assert message in capsys.readouterr().err
    assert main(asked) == 0
    assert main([*asked, "--over-generate", "2"]) == 2
    assert f"{out} holds generated images, no selection" in capsys.readouterr().err
    assert not (tmp_path / "set-all").exists()


def test_the_networks_take_the_dtype_that_is_asked_for(models: list[str]) -> None:
    for name in ("float32", "bfloat16", "float16"):
        chosen = build_parser().parse_args(["generate", *models, "--out", "o", "--dtype", name])
        classifier, prior = load_models(chosen)
        assert classifier.dtype == prior.dtype == getattr(torch, name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--classifier", "nonsense"], "unknown classifier 'nonsense'"),
        (["--classifier", "embedded:oil"], "unknown domain 'oil'"),
        (["--architecture", "resnet8"], "architecture is 'resnet8' with classifier"),
        (["--prior", "nonsense"], "unknown prior 'nonsense'"),
        (["--revision", "main"], "revision is 'main' with prior"),
        (["--images-per-class", "0"], "images_per_class is 0"),
        (["--classes", "cat"], "class 'cat' is not a label"),
        (["--alignment-start", "0.9", "--alignment-stop", "0.1"], "alignment window is [0.9, 0.1)"),
        (
            ["--alignment", "none", "--alignment-scale", "1"],
            "--alignment none came with --alignment-scale",
        ),
        (["--tokens", "missing.safetensors"], "missing.safetensors"),
        (["--device", "gpu"], "device is 'gpu', expected 'cpu', 'cuda'"),
        (["--device", "cuda:99"], "device is 'cuda:99'"),
        (["--labels", "a", "b"], "7 outputs and 2 labels"),
        (["--tiny-decoder", "nonsense"], "unknown tiny decoder 'nonsense'"),
        (["--alignment-decoder", "tiny"], "has no tiny decoder"),
        (["--onnx-cache", "graphs"], "onnx_cache is 'graphs' with runtime 'torch'"),
        (["--attention", "xformers"], "attention is 'xformers' on cpu"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_mistake_is_one_error_and_exit_code_2(
    tmp_path: Path,
    models: list[str],
    capsys: pytest.CaptureFixture[str],
    change: list[str],
    message: str,
) -> None:
    assert main(["generate", *models, "--out", str(tmp_path / "set"), *change]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.out == ""
    assert not (tmp_path / "set").exists()


def test_a_folder_that_cannot_be_written_is_an_error(
    tmp_path: Path, models: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["generate", *models, "--out", str(tmp_path / "file" / "set")]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_the_paper_s_alignment_brings_the_paper_s_sampling() -> None:
    assert sampling_of(parsed("--alignment", "paper")) == Sampling.paper()
    assert sampling_of(parsed("--alignment", "paper", "--eta", "1")) == replace(
        Sampling.paper(), eta=1.0
    )
    assert sampling_of(parsed()) == Sampling()


def learning_parsed(*arguments: str):
    return build_parser().parse_args(
        ["learn-tokens", "--classifier", "x", "--out", "o", *arguments]
    )


def test_the_published_learning_is_a_preset() -> None:
    assert learning_of(learning_parsed()) == TokenLearning()
    assert learning_of(learning_parsed("--learning", "paper")) == TokenLearning.paper()
    changed = learning_of(learning_parsed("--learning", "paper", "--learning-epochs", "3"))
    assert changed == replace(TokenLearning.paper(), epochs=3)


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """Of each bar that a command shows its total and how far it came."""
    shown: dict[str, list[float]] = {}

    class Counted(Bar):
        def __init__(self, title: str, total: int) -> None:
            self.seen = shown[title] = [total, 0]

        def expect(self, total: int) -> None:
            self.seen[0] = total

        def advance(self, units: float = 1, **fields: object) -> None:
            self.seen[1] += units

    monkeypatch.setattr(Progress, "bars", lambda self: nullcontext(Counted))
    return shown


@pytest.mark.parametrize(
    ("alignment", "again"), [("default", 2), ("none", 1)], ids=["made jointly", "made alone"]
)
def test_a_continued_run_shows_the_images_that_it_makes(
    tmp_path: Path, models: list[str], bars: dict[str, list[float]], alignment: str, again: int
) -> None:
    out = tmp_path / "set"
    asked = [
        "generate",
        *models,
        "--classes",
        "dog",
        "horse",
        "--images-per-class",
        "1",
        "--steps",
        "2",
    ]
    for number, images in enumerate((2, again, 0)):
        if number == 1:
            (out / "images" / "horse" / "00000.png").unlink()
        assert main([*asked, "--alignment", alignment, "--out", str(out)]) == 0
        assert bars == {"images": [images, pytest.approx(images)]}


def test_learning_shows_the_trial_of_words_and_its_epochs(
    tmp_path: Path, models: list[str], bars: dict[str, list[float]]
) -> None:
    asked = [
        "learn-tokens",
        *models,
        "--classes",
        "dog",
        "horse",
        "--out",
        str(tmp_path / "t.safetensors"),
        "--steps",
        "2",
        "--learning-steps",
        "2",
        "--learning-epochs",
        "2",
        "--learning-target-accuracy",
        "1",
        "--learning-words",
        "red, blue",
        "--learning-images-per-epoch",
        "2",
        "--learning-check-images",
        "2",
        "--learning-gradient",
        "last",
        "--learning-updates-per-trajectory",
        "1",
        "--no-learning-skip-passing",
    ]
    assert main(asked) == 0
    total = IMAGES_PER_CLASS * 2 * (2 + 1)  # of both classes, of each word and of none
    assert bars == {
        "images that try words": [total, pytest.approx(total)],
        "epochs": [2 * 3, 2 * 3],
    }


def test_the_demo_shows_its_learning(
    monkeypatch, tmp_path: Path, bars: dict[str, list[float]]
) -> None:
    def learn_tokens(*_: object, on_trial, on_progress, **__: object) -> None:
        on_trial(Step(0, 10, 0, torch.ones(()), torch.ones(())), torch.zeros(5, 4, 8, 8))
        on_progress(TokenEpoch(0, 1, 0.5, None, 1.0, Outcome.LEARNING, 0, 0))
        raise ConfigError("enough")

    monkeypatch.setattr("engine.apps.demo.learn_tokens", learn_tokens)
    assert main(["demo", "--learn", "--out", str(tmp_path / "demo")]) == 2
    assert bars == {
        "images that try words": [140, 0.5],
        "epochs": [70, 1],
        "image-steps": [1680, 0],
    }


def test_steps_of_sampling_act_in_learning_or_are_refused() -> None:
    assert learning_of(learning_parsed("--steps", "7")).steps == 0
    assert sampling_of(learning_parsed("--steps", "7")).steps == 7
    assert learning_of(learning_parsed("--learning-steps", "7")).steps == 7
    with pytest.raises(
        ConfigError, match="--steps 7 came with --learning-steps 9, expected one of them"
    ):
        learning_of(learning_parsed("--steps", "7", "--learning-steps", "9"))


@pytest.mark.parametrize("verb", ["plan", "profile", "export-onnx"])
@pytest.mark.parametrize("option", ["--seed", "--classes", "--eta"])
def test_a_verb_has_no_option_without_effect(
    verb: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = ["--out", "o"] if verb == "export-onnx" else []
    with pytest.raises(SystemExit):
        build_parser().parse_args([verb, "--classifier", "x", *needed, option, "1"])
    assert "unrecognized arguments" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["generate", "--classifier", "x", "--out", "o"], "run the same command again to continue"),
        (["evaluate", "x"], "nothing of this run was kept, the same command starts anew"),
        (["export", "x", "--out", "o"], "empty the folder"),
    ],
)
def test_an_interruption_says_what_becomes_of_the_run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    says: str,
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"engine.apps.cli.run_{command[0]}", interrupted)
    assert main(command) == 130
    assert says in capsys.readouterr().err


def test_quiet_hides_bars_alone_and_json_all_words(capsys: pytest.CaptureFixture[str]) -> None:
    for progress, out, err in (
        (Progress(quiet=True), "asked\n", "title\n"),
        (Progress(silent=True), "", ""),
    ):
        progress.say("asked", result=True)
        progress.table("title", ["a"], [["[1]"]])
        printed = capsys.readouterr()
        assert printed.out == out
        assert printed.err.startswith(err)
        assert ("[1]" in printed.err) == bool(err)
        assert progress.quiet


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (0, "device is 'cuda:2' and torch sees no CUDA device here"),
        (2, "expected 'cuda:<number>' below 2"),
    ],
)
def test_a_device_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, devices: int, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    with pytest.raises(ConfigError, match=message):
        default_device("cuda:2")
