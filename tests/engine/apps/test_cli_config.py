"""Configuration files: one written by a command is read by the others, flags go before it, and mistakes are named."""

import json
from dataclasses import is_dataclass
from pathlib import Path

import pytest

from engine.apps.cli import main
from engine.apps.cli.config import read_config
from engine.apps.cli.options import options_of
from engine.apps.cli.registry import COMMANDS
from engine.apps.cli.settings import Understood, needed_paths, understand
from engine.errors import ConfigError
from engine.request import ClassifierSource, PriorSource, Request
from engine.settings import Alignment, Sampling
from engine.settings.methods import DDIS, Plain
from engine.settings.plain import to_plain

PRINTABLE = {
    "generate": ["--seed", "5", "--cfg", "2", "--over-generate", "3"],
    "learn-tokens": ["--learning.epochs", "3", "--learning.words", "a, b: c"],
    "learn-lora": ["--lora.rank", "4", "--lora.epochs", "3"],
    "finish": ["--trust-sizes"],
    "tune": ["--scales", "0.1", "0.5"],
    "plan": ["--memory", "3GB", "--image-px", "512"],
    "profile": ["--images", "2"],
    "demo": ["--domain", "photo", "--learn"],
    "export-onnx": ["--dtype", "bfloat16"],
    "evaluate": ["--resamples", "7", "--features", "inception"],
    "select": ["--keep", "0.25"],
    "fit": ["--epochs", "3", "--image-px", "64"],
    "distill": ["--seeds", "2", "--temperature", "1e-05"],
    "prune": ["--ratio", "0.25"],
    "quantise": ["--calibration", "entropy"],
    "embedded check": ["--images-per-prompt", "2"],
    "export": ["--images-per-shard", "9"],
    "statistics": ["--epsilon", "3"],
    "report": ["--images", "50"],
    "studio": ["--port", "8000"],
    "doctor": ["--mean", "0.5", "--images-each", "2"],
}


def needed(name: str) -> list[str]:
    """The words that a command cannot do without."""
    options = {option.path: option for option in options_of(COMMANDS[name])}
    found = [options[path] for path in needed_paths(COMMANDS[name])]
    words = []
    for option in sorted(found, key=lambda option: not option.positional):
        words += [*([] if option.positional else [f"--{option.flag}"]), "x.safetensors"]
    return words


def called(name: str, *words: str) -> Understood:
    found = understand(name, [*needed(name), *words], COMMANDS)
    assert found is not None
    return found


def printed(name: str, capsys, *words: str) -> str:
    assert main([*name.split(), *words, "--print-config"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_printed_settings_are_taken_back(name: str, tmp_path: Path, capsys) -> None:
    changes = PRINTABLE[name]
    file = tmp_path / "settings.yaml"
    file.write_text(printed(name, capsys, *needed(name), *changes))
    wanted = called(name, *changes).command
    again = called(name, "--config", str(file)).command
    assert {**vars(again), "config": None} == {**vars(wanted), "config": None}
    assert called(name).command != wanted
    assert printed(name, capsys, "--config", str(file)) == file.read_text()


@pytest.mark.parametrize("written", PRINTABLE)
@pytest.mark.parametrize("read", ["generate", "learn-tokens", "distill", "evaluate", "demo"])
def test_a_file_of_one_command_is_read_by_the_others(
    written: str, read: str, tmp_path: Path, capsys
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(printed(written, capsys, *PRINTABLE[written]))
    taken, source = (
        called(read, "--config", str(file)).command,
        called(written, *PRINTABLE[written]),
    )
    for name, settings in vars(source.command).items():
        if is_dataclass(settings) and hasattr(taken, name) and name != "request":
            assert getattr(taken, name) == settings
    if hasattr(taken, "request") and hasattr(source.command, "request"):
        request = source.command.request
        assert taken.request.method == request.method
        assert taken.request.seed == request.seed


def test_flags_override_presets_override_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "request:\n  classifier: {source: x}\n  seed: 4\n  method:\n    name: ddis\n    tokens: t\n"
        "    sampling: {steps: 9, cfg: 3}\n    alignment: {scale: 1e-1}\nlearning: {epochs: 2}\n"
    )
    request = called("generate", "--config", str(file), "--seed", "6", "--cfg", "5").command.request
    wanted = DDIS(alignment=Alignment(scale=0.1), sampling=Sampling(steps=9, cfg=5.0), tokens="t")
    assert (request.seed, request.method) == (6, wanted)
    request = called("generate", "--config", str(file), "--preset", "paper").command.request
    assert request.method.alignment == Alignment.paper()
    assert (request.method.sampling, request.method.tokens) == (Sampling.paper(), "t")
    request = called("generate", "--config", str(file), "--method", "plain").command.request
    assert request.method == Plain(sampling=Sampling(steps=9, cfg=3.0), tokens="t")
    request = called("generate", "--config", str(file), "--method", "deepinversion").command.request
    assert request.method.name == "deepinversion"


def test_a_record_of_a_run_is_a_configuration(tmp_path: Path) -> None:
    request = Request(classifier=ClassifierSource(source="embedded:photo"), seed=9)
    record = {"format": "ddis-run/2", "request": request.to_plain(), "models": {"prior": {}}}
    file = tmp_path / "run.json"
    file.write_text(json.dumps(record))
    found = understand("generate", ["--config", str(file), "--out", "o"], COMMANDS)
    assert found.command.request == request
    assert found.record["models"] == {"prior": {}}
    assert understand("learn-tokens", ["--config", str(file), "--out", "o"], COMMANDS)
    alignment, sampling = to_plain(Alignment(scale=0.3)), to_plain(Sampling(steps=9))
    old = {
        "classifier": {"name": "embedded:photo", "fingerprint": "c", "dtype": "torch.float16"},
        "prior": {"name": "embedded", "fingerprint": "p", "dtype": "torch.float16", "tiny": None},
        "classes": ["dog"],
        "images_per_class": 2,
        "tokens": None,
        "alignment": alignment,
        "sampling": sampling,
        "seed": 9,
        "runtime": "torch",
        "labels": {"0": "dog"},
    }
    file.write_text(json.dumps({"format": "ddis-dataset/1", "config": old, "measured": {}}))
    found = understand("generate", ["--config", str(file), "--out", "o"], COMMANDS)
    assert found.command.request == Request(
        classifier=ClassifierSource(source="embedded:photo"),
        prior=PriorSource(source="embedded"),
        method=DDIS(alignment=Alignment(scale=0.3), sampling=Sampling(steps=9)),
        classes=("dog",),
        images_per_class=2,
        seed=9,
        dtype="float16",
    )
    assert found.record["models"]["prior"]["fingerprint"] == "p"


def test_the_models_of_a_record_must_be_there_unless_others_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["generate", "--classifier", "embedded:photo", "--classes", "dog", "--json"]
    few = ["--images-per-class", "1", "--steps", "2", "--device", "cpu"]
    assert main([*asked, *few, "--out", str(tmp_path / "first")]) == 0
    file, record = tmp_path / "changed.json", tmp_path / "first" / "run.json"
    assert main(["generate", "--config", str(record), "--out", str(tmp_path / "again")]) == 0
    for image in ("images/dog/00000.png", "contact_sheet.png", "manifest.parquet"):
        assert (tmp_path / "again" / image).read_bytes() == (
            tmp_path / "first" / image
        ).read_bytes()
    changed = json.loads(record.read_text())
    changed["models"]["classifier"]["fingerprint"] = "0" * 16
    file.write_text(json.dumps(changed))
    capsys.readouterr()
    again = ["generate", "--config", str(file), "--out", str(tmp_path / "other")]
    assert main(again) == 2
    assert "changed.json is damaged (it has another checksum" in capsys.readouterr().err
    del changed["sha256"]
    file.write_text(json.dumps(changed))
    assert main(again) == 2
    assert "the models are not those of the record: classifier.fingerprint is" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "other").exists()
    assert main([*again, "--classifier", "embedded:sketch"]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "requst: {seed: 3}",
            "'requst' is no section, expected request, execution or another .*Did you mean 'request'",
        ),
        ("request: {sed: 3}", r"request\.sed is no setting, .*Did you mean 'seed'"),
        ("request: {seed: many}", r"request\.seed is 'many', expected a whole number"),
        (
            "learning: {epochs: 0}",
            r"learning\.epochs is 0, expected at least 1",
        ),  # of another command
        ("generate: {over: 2}", r"generate\.over is no setting, expected over_generate"),
        ("generate: 3", "generate is 3, expected the settings of ddis generate"),
        ("tune: {scales: 3}", r"tune\.scales is 3, expected a list"),
        ("format: ddis-config/2", "has format 'ddis-config/2', .* another version of ddis"),
        (
            "{format: ddis-dataset/1, config: {}}",
            "of version 0.1 and does not tell classifier, method, seed, expected a whole request",
        ),
        (
            "{format: ddis-dataset/1, config: 3}",
            "the record holds 3 in place of what made the images",
        ),
        (
            "{format: ddis-dataset/1, config: {classifier: photo, method: deepinversion, seed: 0}}",
            "the record holds {'classifier': 'photo'",
        ),
        *(
            (
                f"{{format: ddis-dataset/1, config: {{method: ddis, seed: 0, classifier: {{name: a, dtype: {dtype}}}, "
                f"prior: {prior}}}}}",
                message,
            )
            for dtype, prior, message in (
                ("3", "{name: b, dtype: c}", "describes its classifier as .*'dtype': 3"),
                ("c", "x", "expected a mapping of each one's facts"),
                ("c", "{dtype: c}", "describes its prior as {'dtype': 'c'}, expected its name"),
            )
        ),
        (
            "{format: ddis-run/2, models: 3, request: {classifier: {source: 'embedded:photo'}}}",
            "the record holds 3 in place of its models",
        ),
        ("request: {method: [ddis]}", r"request\.method\.name is \['ddis'\], expected one of"),
        (
            "{format: ddis-dataset/1, config: {tokens: abc}}",
            "the record is of version 0.1 and names its tokens by the fingerprint abc alone",
        ),
        ("format: ddis-run/2", "and none of request, selected_from, together, expected the record"),
        ("{format: ddis-run/2, request: 3}", "request is 3, expected the settings of Request"),
        ("{format: ddis-run/2, request: {sed: 3}}", r"request\.sed is no setting"),
        ("{format: ddis-request/1, sed: 3}", r"request\.sed is no setting"),
        ("request: {format: ddis-request/9}", "format 'ddis-request/9', expected 'ddis-request/1'"),
        (
            "request: {method: {sampling: {steps: 3}}}",
            r"request\.method has no name, expected one of 'ddis'",
        ),
        ("request: [", "cannot be read .*, expected YAML or JSON"),
        ("[1, 2]", "holds no sections, expected some"),
        ("", "holds no sections"),
    ],
)
def test_a_mistake_in_a_file_is_named_by_its_place(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as refused:
        called("generate", "--config", str(file))
    assert str(refused.value).startswith(str(file))
    assert str(refused.value).count(str(file)) == 1


@pytest.mark.parametrize("inside", [False, True])
def test_a_request_as_python_writes_it_is_a_file_too(inside: bool, tmp_path: Path) -> None:
    request = Request(classifier=ClassifierSource(source="embedded:photo"), seed=7)
    values = request.to_plain()
    (tmp_path / "c.json").write_text(json.dumps({"request": values} if inside else values))
    words = ["--config", str(tmp_path / "c.json"), "--out", "out"]
    found = understand("generate", words, COMMANDS)
    assert found is not None
    assert getattr(found.command, "request", None) == request


def test_a_json_file_that_is_cut(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text('{"request": {"seed": 1')
    with pytest.raises(ConfigError, match=r"run\.json cannot be read \(JSONDecodeError"):
        called("generate", "--config", str(file))


def test_a_file_that_is_not_there(tmp_path: Path, capsys) -> None:
    assert main(["plan", "--config", str(tmp_path / "no.yaml")]) == 2
    said = capsys.readouterr().err
    assert f"there is no {tmp_path}/no.yaml, expected a configuration file" in said
    assert "check the path" in said


def test_a_file_is_no_place_for_outputs(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("generate: {out: folder}")
    with pytest.raises(ConfigError, match=r"generate\.out is no setting"):
        read_config(file, COMMANDS)
