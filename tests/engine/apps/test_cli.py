"""The command line: built from the configs, one clear error, exit code 2, nothing half-written."""

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from engine.apps.cli import main, registry
from engine.apps.cli.command import Call, Command
from engine.apps.cli.registry import COMMANDS
from engine.apps.cli.requests import load_models
from engine.apps.cli.settings import understand
from engine.apps.progress import Bars, Screen
from engine.datasets.dataset import read_dataset
from engine.errors import ConfigError
from engine.events import EpochEnded, Event, Events, Progressed, Started, Stepped
from engine.networks.frozen import default_device
from engine.prompts import PLAIN
from engine.runners import tune
from engine.runners.start_word import IMAGES_PER_CLASS, TRIAL
from engine.runners.token_epochs import EPOCHS
from engine.settings import Sampling
from engine.settings.fields import setting


@pytest.fixture
def models(classifier_folder: Path, tiny_prior_folders: dict[str, Path]) -> list[str]:
    words = ["--classifier", str(classifier_folder), "--device", "cpu"]
    return [*words, "--prior", str(tiny_prior_folders["epsilon"])]


def generating(models: list[str], images_per_class: int, *classes: str) -> list[str]:
    """The words of a short `ddis generate`, but for its folder."""
    few = ["--images-per-class", str(images_per_class), "--steps", "2"]
    return ["generate", *models, *few, "--classes", *classes]


def test_generate_prints_one_json_object(
    tmp_path: Path, models: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    asked = generating(models, 1, "dog", "horse")
    assert main([*asked, "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["images"] == printed["made_now"] == 2
    assert Path(printed["contact_sheet"]).is_file()
    assert main([*asked, "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["made_now"] == 0
    assert main([*asked, "--out", str(out), "--cfg", "3"]) == 2
    assert f"sampling.cfg is {Sampling().cfg} there and 3.0 here" in capsys.readouterr().err


def test_events_are_lines_of_json_in_a_file_or_on_stderr(
    tmp_path: Path, models: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    asked, file = generating(models, 1, "dog", "horse"), tmp_path / "events.jsonl"
    assert main([*asked, "--out", str(tmp_path / "a"), "--events", str(file), "--quiet"]) == 0
    capsys.readouterr()
    assert main([*asked, "--out", str(tmp_path / "b"), "--events", "-", "--quiet"]) == 0
    written, printed = file.read_text().splitlines(), capsys.readouterr().err.splitlines()
    for lines in (written, [line for line in printed if line.startswith("{")]):
        events = [json.loads(line) for line in lines]
        assert [event["event"] for event in events].count("image") == 2
        assert {"started", "step", "finished"} <= {event["event"] for event in events}


def test_the_plain_method_is_the_prior_without_guidance(
    tmp_path: Path, models: list[str], capsys
) -> None:
    asked = [*generating(models, 2, "dog"), "--json", "--out", str(tmp_path / "set")]
    assert main([*asked, "--method", "plain"]) == 0
    assert json.loads(capsys.readouterr().out)["made_now"] == 2
    assert main([*asked, "--alignment", "none"]) == 2
    assert "or --method plain for the prior without guidance" in capsys.readouterr().err


def test_over_generation_keeps_the_number_that_was_asked_for(
    tmp_path: Path, models: list[str], capsys
) -> None:
    out = tmp_path / "set"
    asked = [*generating(models, 2, "dog", "horse"), "--out", str(out), "--method", "plain"]
    assert main([*asked, "--over-generate", "1.6", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    every = tmp_path / "set-all"
    assert (printed["images"], printed["made_now"], printed["all"]) == (4, 6, str(every))
    classes = [row.class_index for _, row in read_dataset(out)]
    assert [classes.count(number) for number in (0, 4)] == [2, 2]
    assert json.loads((out / "run.json").read_text())["selection"]["by"] == "l_bn_share"
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
    asked = [*generating(models, 1, "dog"), "--out", str(out), "--method", "plain"]
    for factor, message in (
        ("1", "--over-generate is 1, expected a number above 1"),
        ("nan", "--over-generate is nan, expected a number above 1"),
        ("1.2", "--over-generate is 1.2 with 1 image a class, expected enough for one more"),
    ):
        assert main([*asked, "--over-generate", factor]) == 2
        assert message in capsys.readouterr().err
    assert main(asked) == 0
    assert main([*asked, "--over-generate", "2"]) == 2
    assert f"{out} holds generated images, no selection" in capsys.readouterr().err
    assert not (tmp_path / "set-all").exists()


def test_tune_writes_its_trials_for_a_report(
    tmp_path: Path, models: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tuned.json"
    few = ["--scales", "0.1", "0.2", "--images-per-class", "1", "--steps", "2", "--classes", "dog"]
    assert main(["tune", *models, *few, "--out", str(file), "--json"]) == 0
    assert json.loads(file.read_text()) == json.loads(capsys.readouterr().out)
    assert main(["report", str(file), "--quiet"]) == 0
    assert "Of 2 scales of guidance" in file.with_suffix(".html").read_text()
    assert main(["tune", *models, *few, "--out", str(tmp_path)]) == 2
    assert "expected a path that can be written" in capsys.readouterr().err


def test_tune_prints_a_command_that_generate_takes(
    tmp_path: Path,
    models: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = ["--images-per-class", "1", "--steps", "2", "--classes", "dog", "horse"]
    styles = ["--prompts", "a sketch of {a} {class}", "a photo of {a} {class}"]
    words = ["tune", *models, *few, *styles, "--preset", "fast", "--scales", "0.2", "0.3"]
    monkeypatch.setenv("COLUMNS", "80")
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "log distance" in printed
    assert printed.count("cross-entropy ┃") == 2  # no head is cut inside a word
    assert "score: of a prompt its log distance, of a scale the log distance + cross-ent" in printed
    assert "scales near the default, 0.15, differ little" in printed
    words = shlex.split(printed.strip().splitlines()[-1])
    assert words[:2] == ["ddis", "generate"]
    assert {*models, "--preset", "fast", "--steps", "2", "dog", "horse"} <= {*words}
    assert any(word.endswith("of {a} {class}") for word in words)
    monkeypatch.chdir(tmp_path)
    assert main([*words[1:], "--images-per-class", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 2


def test_tune_leaves_out_the_default_scale(
    models: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "least", lambda trials: trials[0])
    few = ["--images-per-class", "1", "--steps", "2", "--classes", "dog"]
    assert main(["tune", *models, *few, "--prompts", PLAIN, "--scales", "0.15", "0.3"]) == 0
    printed = capsys.readouterr().out
    assert "--alignment.scale" not in printed
    assert "differ little" not in printed
    assert "score: of a prompt" not in printed  # none was compared


def test_the_networks_take_the_dtype_that_is_asked_for(models: list[str]) -> None:
    for name in ("float32", "bfloat16", "float16"):
        words = [*models, "--out", "o", "--dtype", name]
        command = understand("generate", words, COMMANDS).command
        classifier, prior = load_models(command.request, command.execution)
        assert classifier.dtype == prior.dtype == getattr(torch, name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--classifier", "nonsense"], "unknown classifier 'nonsense'"),
        (["--classifier", "embedded:oil"], "unknown domain 'oil'"),
        (["--architecture", "resnet8"], "--architecture is 'resnet8' with classifier"),
        (["--prior", "nonsense"], "unknown prior 'nonsense'"),
        (["--revision", "main"], "--revision is 'main' with prior"),
        (["--images-per-class", "0"], "--images-per-class is 0"),
        (["--classes", "cat"], "class 'cat' is not a label"),
        (
            ["--alignment.start", "0.9", "--alignment.stop", "0.1"],
            "--alignment.start is 0.9 and stop is 0.1",
        ),
        (["--steps", "few"], "--steps is 'few', expected a whole number"),
        (
            ["--alignment.norm", "l3"],
            "--alignment.norm is 'l3', expected one of 'l2', 'l2_squared'",
        ),
        (["--aligment.scale", "1"], "Did you mean '--alignment.scale'?"),
        (["--alignment-scale", "1"], "since version 0.2, expected --alignment.scale"),
        (["--learning", "paper"], "--learning is no option of ddis generate"),
        (["--seed"], "--seed came without a value, expected one behind it (seed of the run)"),
        (["stray"], "'stray' is a word too many"),
        (["--tokens", "missing.safetensors"], "missing.safetensors"),
        (["--device", "gpu"], "--device is 'gpu', expected 'cpu', 'cuda'"),
        (["--device", "cuda:99"], "--device is 'cuda:99'"),
        (["--labels", "a", "b"], "7 outputs and 2 labels"),
        (["--tiny-decoder", "nonsense"], "unknown tiny decoder 'nonsense'"),
        (["--alignment.decoder", "tiny"], "has no tiny decoder"),
        (["--onnx-cache", "graphs"], "--onnx-cache is 'graphs' with runtime 'torch'"),
        (["--attention", "xformers"], "--attention is 'xformers' on cpu"),
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


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """Of each bar that a command shows its total and how far it came."""
    shown: dict[str, list[float]] = {}

    def count(_: Bars, event: Event) -> None:
        match event:
            case Started(task, total, done):
                shown[task] = [total - done, 0]
            case Progressed(task, units):
                shown[task][1] += units
            case EpochEnded(task):
                shown[task][1] += 1
            case Stepped(task, images, _, steps) if task in shown:
                shown[task][1] += images / steps

    monkeypatch.setattr(Bars, "__call__", count)
    return shown


@pytest.mark.parametrize(
    ("method", "again"), [("ddis", 2), ("plain", 1)], ids=["made jointly", "made alone"]
)
def test_a_continued_run_shows_the_images_that_it_makes(
    tmp_path: Path, models: list[str], bars: dict[str, list[float]], method: str, again: int
) -> None:
    out = tmp_path / "set"
    asked = generating(models, 1, "dog", "horse")
    for number, images in enumerate((2, again, 0)):
        if number == 1:
            (out / "images" / "horse" / "00000.png").unlink()
        assert main([*asked, "--method", method, "--out", str(out)]) == 0
        assert bars == {"images": [images, pytest.approx(images)]}


def test_learning_shows_the_trial_of_words_and_its_epochs(
    tmp_path: Path, models: list[str], bars: dict[str, list[float]]
) -> None:
    learning = {
        "steps": "2",
        "epochs": "2",
        "target-accuracy": "1",
        "words": "red, blue",
        "images-per-epoch": "2",
        "check-images": "2",
        "gradient": "last",
        "updates-per-trajectory": "1",
    }
    settings = [word for name, value in learning.items() for word in (f"--learning.{name}", value)]
    out = ["--classes", "dog", "horse", "--steps", "2", "--out", str(tmp_path / "t.safetensors")]
    asked = ["learn-tokens", *models, *out, *settings, "--learning.no-skip-passing"]
    assert main(asked) == 0
    total = IMAGES_PER_CLASS * 2 * (2 + 1)  # of both classes, of each word and of none
    assert bars == {
        "images that try words": [total, pytest.approx(total)],
        "epochs": [2 * 3, 2 * 3],
    }


def test_learning_ends_with_how_many_classes_got_a_token(
    tmp_path: Path, models: list[str], capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    learn = COMMANDS["learn-tokens"]
    command = learn(out=tmp_path / "my tokens.safetensors")
    said = command._closing(3, 7)
    assert said.startswith(
        "3 of 7 classes got a token; the others keep their plain prompt. To draw"
    )
    assert said.endswith(f"ddis generate ... --tokens '{tmp_path}/my tokens.safetensors'")
    assert "others" not in command._closing(7, 7)
    assert command._closing(0, 7).startswith("none of 7 classes got a token: all keep their plain")
    file = tmp_path / "t.safetensors"
    learning = ["--learning.epochs", "1", "--learning.images-per-epoch", "1"]
    few = ["--classes", "dog", "--steps", "2", "--learning.words", "red, blue"]
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["learn-tokens", *models, *few, *learning, "--out", str(file)]) == 0
    printed = capsys.readouterr()
    assert "class got" in printed.err
    assert "forward" in printed.out  # its words are whole at 80 columns
    assert "backward" in printed.out


def test_the_demo_shows_its_learning(
    monkeypatch, tmp_path: Path, bars: dict[str, list[float]]
) -> None:
    def learn_tokens(*_: object, events: Events, **__: object) -> None:
        with events.task(TRIAL, 140), events.task(EPOCHS, 70):
            events.emit(Stepped(TRIAL, 5, 0, 10))
            events.emit(EpochEnded(EPOCHS, 0, "dog", 1, 0.5, 1.0))
            raise ConfigError("enough")

    monkeypatch.setattr("engine.apps.demo.learn_tokens", learn_tokens)
    assert main(["demo", "--learn", "--out", str(tmp_path / "demo")]) == 2
    assert bars == {
        "images that try words": [140, 0.5],
        "epochs": [70, 1],
    }


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (
            ["generate", "--classifier", "embedded:photo", "--out", "o"],
            "run the same command again to resume",
        ),
        (["evaluate", "x"], "nothing of this run was kept, the same command starts over"),
        (["demo", "--out", "o"], "but for what --learn has learned so far"),
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

    monkeypatch.setattr(COMMANDS[command[0]], "run", interrupted)
    assert main(command) == 130
    assert says in capsys.readouterr().err


def test_a_new_command_is_a_class_and_an_entry(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Count(Command):
        """Count to a number."""

        to: int = setting(2, "where it ends")

        def run(self, call: Call) -> dict[str, Any]:
            return {"counted": list(range(1, self.to + 1))}

    module = ModuleType("engine.apps.cli.commands.count")
    module.Count = Count
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(registry._HOMES, "count", "count:Count")
    assert main(["count", "--to", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"counted": [1, 2, 3]}
    assert main(["--help"]) == 0
    assert "count           Count to a number" in capsys.readouterr().out


def test_quiet_hides_bars_alone_and_json_all_words(capsys: pytest.CaptureFixture[str]) -> None:
    for progress, out, err in (
        (Screen(quiet=True), "asked\n", "title\n"),
        (Screen(silent=True), "", ""),
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
