"""The baselines through `generate` and `ddis generate`: the folder, continuing, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from engine.apps.cli import main
from engine.apps.cli.options import options_of
from engine.apps.cli.registry import COMMANDS
from engine.classifiers import Classifier
from engine.classifiers.cifar_resnet import CifarResNet
from engine.datasets.manifest import read_manifest
from engine.errors import ConfigError, OutputError
from engine.guidance.domain import judged
from engine.request import METHODS
from engine.runners.generate import generate
from engine.settings import Alignment, Sampling
from engine.settings.inversion import (
    DeepInversion,
    InversionSettings,
    NaturalInversion,
    PlugInInversion,
)
from engine.settings.methods import Plain

SHORT: list[InversionSettings] = [
    DeepInversion(batch=3, iterations=2, jitter=1),
    PlugInInversion(batch=3, stages=2, iterations=1, copies=2),
    NaturalInversion(batch=3, iterations=2, width=4, latent=4),
]


@pytest.fixture(autouse=True)
def _no_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a baseline loaded a prior")

    monkeypatch.setattr("engine.methods.models.load_prior", refuse)
    monkeypatch.setattr("engine.priors.load_prior", refuse)


@pytest.mark.parametrize("method", SHORT, ids=lambda method: method.name)
def test_a_folder_that_was_cut_is_continued_to_the_same_bytes(
    tmp_path: Path, classifier: Classifier, contents, method: InversionSettings
) -> None:
    def run(name: str, images: int | None = None) -> int:
        made = generate(
            classifier,
            classes=["dog", "horse"],
            images_per_class=4,
            method=method,
            out=tmp_path / name,
        )
        if images is None:
            return sum(1 for _ in made)
        for _ in range(images):
            next(made)
        made.close()
        return images

    assert run("whole") == 8
    assert run("cut", 4) == 4  # in the middle of the second of three groups
    assert run("cut") == 4
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert run("cut") == 0


def test_the_folder_says_what_made_it_and_what_the_teacher_says(
    tmp_path: Path, classifier: Classifier
) -> None:
    method = SHORT[0]
    samples = {
        s.key: s
        for s in generate(classifier, method=method, images_per_class=1, out=tmp_path / "set")
    }
    rows = list(read_manifest(tmp_path / "set"))
    assert [row.label for row in rows] == list(classifier.labels)
    assert {row.group for row in rows} == {"0.0 1.0", "2.0 3.0", "4.0 5.0 6.0"}
    for row in rows:
        sample = samples[row.key]
        logits, distance = judged(classifier, sample.image[None])
        torch.testing.assert_close(
            torch.from_numpy(row.logits.copy()), logits[0], rtol=1e-4, atol=1e-4
        )
        assert row.l_bn == pytest.approx(distance.item(), rel=1e-4)
        assert (row.prompt, row.token) == ("", "")
        assert len(sample.curve) == 2
        assert min(sample.curve) > 0
    request = json.loads((tmp_path / "set" / "run.json").read_text())["request"]
    assert request["method"] == {"name": "deepinversion", **asdict(method)}


def test_an_image_is_its_seed_and_its_group(classifier: Classifier) -> None:
    def images(**settings: object) -> dict[object, torch.Tensor]:
        return {s.key: s.image for s in generate(classifier, method=SHORT[0], **settings)}

    first, again, other = (
        images(images_per_class=1),
        images(images_per_class=1),
        images(images_per_class=1, seed=1),
    )
    assert all(torch.equal(again[key], image) for key, image in first.items())
    assert not any(torch.equal(other[key], image) for key, image in first.items())


def test_another_config_is_refused_by_its_field(tmp_path: Path, classifier: Classifier) -> None:
    list(generate(classifier, method=SHORT[0], images_per_class=1, out=tmp_path / "set"))
    other = DeepInversion(batch=3, iterations=3, jitter=1)
    with pytest.raises(OutputError, match=r"method\.iterations is 2 there and 3 here\."):
        generate(classifier, method=other, images_per_class=1, out=tmp_path / "set")
    with pytest.raises(
        OutputError, match=r'method\.name is "deepinversion" there and "plugin-inversion" here'
    ):
        generate(classifier, method="plugin-inversion", images_per_class=1, out=tmp_path / "set")


def test_a_module_can_be_the_student(classifier: Classifier) -> None:
    method = DeepInversion(iterations=1, competition=1.0)
    student = CifarResNet(depth=8, widths=(4, 4, 4), classes=7)
    assert len(list(generate(classifier, method=method, images_per_class=1, student=student))) == 7


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prior": "other"}, "prior is given with method 'deepinversion', expected none"),
        ({"alignment": Alignment.paper()}, "alignment is given with method"),
        ({"sampling": Sampling(steps=3)}, "sampling is given with method"),
        ({"tokens": "tokens.safetensors"}, "tokens is given with method"),
        ({"memory": "1GB"}, "memory is given with method"),
        ({"runtime": "onnx"}, "runtime is given with method"),
        ({"images_per_class": 0}, "images_per_class is 0"),
        ({"classes": ["cat"]}, "class 'cat' is not a label"),
        (
            {"method": "ddis", "student": "x"},
            "student is given with method 'ddis', expected none: it is for 'deepinversion'",
        ),
        (
            {"method": "plain", "student": "x"},
            "student is given with method 'plain', expected none: it is for 'deep",
        ),
        (
            {"method": "plain", "alignment": None},
            "alignment is None, expected settings of guidance: give some, or choose method 'plain'",
        ),
        (
            {"method": Plain(), "sampling": Sampling(steps=3)},
            "sampling is given together with the settings of method 'plain'",
        ),
        (
            {"method": Plain(tokens="a"), "tokens": "b"},
            "tokens is given together with the settings of method 'plain'",
        ),
        (
            {"method": "plain", "alignment": Alignment(scale=1)},
            "alignment is given with method 'plain'",
        ),
        (
            {"method": "dream"},
            "unknown method 'dream', expected one of 'ddis', 'plain', 'deepinversion'",
        ),
    ],
    ids=str,
)
def test_what_belongs_to_another_method_is_refused(
    tmp_path: Path, classifier: Classifier, given: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        generate(classifier, **{"method": SHORT[0], "out": tmp_path / "set", **given})
    assert not (tmp_path / "set").exists()


@pytest.fixture
def asked(tmp_path: Path, classifier_folder: Path) -> Callable[..., int]:
    models = ["--classifier", str(classifier_folder), "--device", "cpu"]
    options = [*models, "--images-per-class", "1", "--json"]
    return lambda *more: main(["generate", *options, "--out", str(tmp_path / "set"), *more])


def test_the_command_makes_a_folder(
    tmp_path: Path, asked: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        "--method",
        "deepinversion",
        "--deepinversion.iterations",
        "2",
        "--deepinversion.no-flip",
    ]
    assert asked(*options) == 0
    assert json.loads(capsys.readouterr().out)["made_now"] == 7
    method = json.loads((tmp_path / "set" / "run.json").read_text())["request"]["method"]
    assert method == {"name": "deepinversion", **asdict(DeepInversion(iterations=2, flip=False))}
    student = ["--student", str(tmp_path / "classifier"), "--deepinversion.competition", "2"]
    assert asked(*options, *student) == 2
    assert "method.competition is 0.0 there and 2.0 here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--deepinversion.iterations 3", "--deepinversion.iterations came with --method ddis"),
        (
            "--method natural-inversion --deepinversion.iterations 3",
            "came with --method natural-inversion",
        ),
        (
            "--method deepinversion --steps 3 --cfg 2",
            "--cfg, --steps came with --method deepinversion",
        ),
        ("--method deepinversion --alignment.scale 1", "--alignment.scale came with"),
        ("--method deepinversion --tiny-decoder x", "--tiny-decoder came with"),
        ("--method plain --alignment.scale 1", "--alignment.scale came with --method plain"),
        (
            "--method deepinversion --preset paper",
            "--preset is 'paper' with --method deepinversion",
        ),
        ("--method plain --student x", "--student came with --method plain"),
        ("--student x", "--student came with --method ddis"),
        ("--method deepinversion --deepinversion.iterations 0", "--deepinversion.iterations is 0"),
        ("--method deepinversion --deepinversion.competition 1", "no student is given"),
    ],
)
def test_a_mistake_is_one_error(
    tmp_path: Path,
    asked: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    options: str,
    message: str,
) -> None:
    assert asked(*options.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "set").exists()


def test_every_setting_is_an_option() -> None:
    known = {option.flag: option for option in options_of(COMMANDS["generate"])}
    for name in METHODS:
        settings = METHODS[name]()
        if isinstance(settings, InversionSettings):
            assert {f"{name}.{field.replace('_', '-')}" for field in asdict(settings)} <= {*known}
    assert {*METHODS} == {*known["method"].choices}
