"""A classifier that is read in another way than it was trained is found out, and the right way is named."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from engine.apps.cli import main
from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.evaluation.doctor import OWN, SCALES, Reading, better, by_chance, readings, variants

COLOURS = {
    "red": (220, 40, 30),
    "blue": (30, 50, 215),
    "dark": (12, 10, 14),
    "grey": (128, 128, 128),
}
READS = {
    "usual": Preprocess.squash(8),
    "bgr": replace(Preprocess.squash(8), channels="bgr"),
    **{name: replace(Preprocess.squash(8), **changes) for name, (changes, _) in SCALES.items()},
}


class Nearest(nn.Module):
    """Scores by the distance of the mean colour from those that it was 'trained' on, preprocessed in one way."""

    def __init__(self, reads: Preprocess) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, affine=False)
        colours = torch.tensor([*COLOURS.values()]).view(-1, 3, 1, 1).expand(-1, 3, 8, 8) / 255
        self.register_buffer("centres", reads(colours).mean((2, 3)))
        self.register_buffer("scale", self.centres.std() + 0.1)

    def forward(self, x: Tensor) -> Tensor:
        gaps = (x.mean((2, 3))[:, None] - self.centres[None]) / self.scale
        return -20 * gaps.square().sum(2) + 0 * self.norm(x).mean()


def classifier(trained: Preprocess, read: Preprocess) -> Classifier:
    return load_classifier(Nearest(trained), labels=list(COLOURS), preprocess=read, device="cpu")


def images() -> tuple[list[Tensor], Tensor]:
    colours = torch.tensor([*COLOURS.values()]).view(-1, 3, 1, 1).expand(-1, 3, 8, 8) / 255
    noisy = (colours.repeat(4, 1, 1, 1) + 0.02 * torch.randn(16, 3, 8, 8)).clamp(0, 1)
    return list(noisy.split(6)), torch.arange(4).repeat(4)


@pytest.mark.parametrize("name", READS)
@pytest.mark.filterwarnings("ignore::engine.errors.ClassifierWarning")
def test_a_classifier_that_is_read_as_it_was_trained_is_left_alone(name: str) -> None:
    found = readings(classifier(READS[name], READS[name]), *images())
    assert found[0].recognised == 1
    assert better(found) is None


@pytest.mark.parametrize("name", ["bgr", "pixels from 0 to 255", "blue first, less Caffe's mean"])
@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.filterwarnings("ignore::engine.errors.ClassifierWarning")
def test_the_way_that_it_was_trained_is_named(name: str, labelled: bool) -> None:
    parts, classes = images()
    found = readings(classifier(READS[name], READS["usual"]), parts, classes if labelled else None)
    if labelled:
        options = "--channels bgr" if name == "bgr" else SCALES[name][1]
        assert better(found).options == options
        assert better(found).recognised == 1
    else:
        assert all(one.recognised is None for one in found)


@pytest.mark.filterwarnings("ignore::engine.errors.ClassifierWarning")
def test_labels_in_another_order_are_recognised_by_chance_however_they_are_read() -> None:
    parts, classes = images()
    right = readings(classifier(READS["usual"], READS["usual"]), parts, classes)
    wrong = readings(classifier(READS["usual"], READS["usual"]), parts, (classes + 1) % 4)
    assert not by_chance(right, 4, 16)
    assert by_chance([one for one in wrong if one.name == OWN], 4, 16)
    assert not by_chance(readings(classifier(READS["usual"], READS["usual"]), parts, None), 4, 16)
    barely = [Reading(name=OWN, options="", recognised=0.14, confidence=0.5, classes=300)]
    assert not by_chance(barely, 1000, 400)
    assert by_chance(barely, 7, 28)


def test_no_way_is_tried_twice() -> None:
    for reads in READS.values():
        ways = [way for _, _, way in variants(reads)]
        assert ways[0] == reads
        assert len(ways) == len({repr(way) for way in ways})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in (("dog", (200, 30, 20)), ("horse", (20, 200, 30)), ("none", (20, 30, 200))):
        (tmp_path / name).mkdir()
        Image.new("RGB", (32, 32), colour).save(tmp_path / name / "0.png")
    return tmp_path


def test_the_command_reads_own_images_and_draws_others(folder: Path, capsys) -> None:
    assert main(["doctor", "embedded:photo", "--images", str(folder), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "3 images through embedded:photo" in printed
    assert "channels as bgr" in printed
    assert (
        "it reads images of 96 x 96 pixels in the order rgb, normalised by a mean of 0.5 and a standard "
        "deviation of 0.25" in printed
    )
    words = [
        "--steps",
        "2",
        "--images-each",
        "1",
        "--classes",
        "dog",
        "horse",
        "--device",
        "cpu",
        "--json",
    ]
    assert main(["doctor", "embedded:photo", *words]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 2
    assert report["readings"][0]["name"] == "as it is loaded"


def test_the_command_names_the_flag_that_brings_statistics(folder: Path, capsys) -> None:
    words = ["--images", str(folder), "--device", "cpu", "--statistics", "none"]
    assert main(["doctor", "embedded:photo", *words]) == 0
    assert "set --statistics to 'batch-norm'" in capsys.readouterr().out


def test_the_command_says_what_chance_would_do_as_well(folder: Path, capsys, monkeypatch) -> None:
    def by_luck(*_: object) -> list[Reading]:
        return [
            Reading(name=name, options="", recognised=0.15, confidence=0.8, classes=2)
            for name in (OWN, "other")
        ]

    monkeypatch.setattr("engine.evaluation.doctor.readings", by_luck)
    assert main(["doctor", "embedded:photo", "--images", str(folder), "--device", "cpu"]) == 0
    assert "it recognises no more than chance would: its labels" in capsys.readouterr().out


def test_the_command_takes_the_options_that_it_names(folder: Path, capsys) -> None:
    for _, options in SCALES.values():
        words = ["--images", str(folder), "--device", "cpu", "--json", *options.split()]
        assert main(["doctor", "embedded:photo", *words]) == 0
        assert json.loads(capsys.readouterr().out)["images"] == 3
