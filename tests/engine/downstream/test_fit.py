"""A classifier of labelled images: it learns them, it loads, and what cannot be learned is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine import Distillation, fit, load_classifier
from engine.apps.cli import main
from engine.classifiers import Preprocess
from engine.downstream.fit import FITTING, _labelled
from engine.errors import ConfigError, EngineError, OutputError
from engine.evaluation.images import open_images
from engine.events import Events

FEW = Distillation(
    epochs=8,
    batch=8,
    learning_rate=1e-2,
    temperature=1.0,
    soft_labels="manifest",
    mix="none",
    augment=False,
)


@pytest.fixture
def bright_and_dark(tmp_path: Path) -> Path:
    """Two classes that their brightness tells apart."""
    rng = np.random.default_rng(0)
    for index in range(16):
        for name, low in (("dark", 0), ("bright", 156)):
            place = tmp_path / "set" / name / f"{index:02d}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(low, low + 100, (20, 20, 3), np.uint8)).save(place)
    return tmp_path / "set"


def test_it_learns_its_images_and_loads_again(bright_and_dark: Path, tmp_path: Path) -> None:
    report = fit(
        bright_and_dark,
        tmp_path / "net",
        "resnet8",
        test=bright_and_dark,
        training=FEW,
        image_px=16,
    )
    assert report["classes"] == ["bright", "dark"]
    assert report["images"] == {"training": 32, "test": 32}
    assert report["accuracy"]["training"] > 0.9
    classifier = load_classifier(tmp_path / "net", device="cpu")
    assert classifier.labels == ("bright", "dark")
    assert classifier.input_px == 16
    assert (
        classifier.statistics.stored[0].mean.abs().sum() > 0
    )  # running statistics of these images, not a new network's
    again = fit(bright_and_dark, tmp_path / "again", "resnet8", training=FEW, image_px=16)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("net", "again")]
    assert weights[0] == weights[1]
    assert again["accuracy"]["training"] == report["accuracy"]["training"]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_targets_are_the_images_own_classes(bright_and_dark: Path, temperature: float) -> None:
    found = open_images(bright_and_dark)
    names, labels = found.labels(), ("bright", "dark")
    images = _labelled(found, names, labels, Preprocess.squash(16), temperature)
    target = (images.logits / temperature).softmax(1)
    assert target.argmax(1).tolist() == [labels.index(name) for name in names]
    assert target.max(1).values.min() > 1 - 1e-6


def test_what_cannot_be_learned_is_refused(bright_and_dark: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="of 1 class, expected at least two"):
        fit(bright_and_dark / "dark", tmp_path / "net")
    with pytest.raises(ConfigError, match="architecture is 'vgg', expected one of"):
        fit(bright_and_dark, tmp_path / "net", "vgg")
    with pytest.raises(ConfigError, match="soft_labels is 'online' and there is no teacher"):
        fit(bright_and_dark, tmp_path / "net", training=Distillation())
    other = tmp_path / "other" / "grey"
    other.mkdir(parents=True)
    Image.new("RGB", (20, 20)).save(other / "0.png")
    with pytest.raises(
        ConfigError, match="are of 'grey', expected the training images' classes: bright, dark"
    ):
        fit(bright_and_dark, tmp_path / "net", "resnet8", test=other.parent, training=FEW)
    assert not (tmp_path / "net").exists()
    assert FITTING.soft_labels == "manifest"


def test_the_same_again_trains_nothing_and_another_is_refused(
    bright_and_dark: Path, tmp_path: Path
) -> None:
    net, few = tmp_path / "net", {"training": FEW, "image_px": 16}
    first = fit(bright_and_dark, net, "resnet8", **few)
    kept = (net / "model.safetensors").stat().st_mtime_ns
    again = fit(
        bright_and_dark, net, "resnet8", **few, events=Events(lambda _: pytest.fail("it trains"))
    )
    assert again == first | {"trained": False}
    with pytest.raises(
        OutputError, match=r"holds something else: seed is 0 there and 1 here\. Expected a new"
    ):
        fit(bright_and_dark, net, "resnet8", **few, seed=1)
    Image.new("RGB", (20, 20)).save(bright_and_dark / "dark" / "00.png")
    with pytest.raises(OutputError, match=r"images.training is .* there and .* here"):
        fit(bright_and_dark, net, "resnet8", **few)
    assert (net / "model.safetensors").stat().st_mtime_ns == kept
    (net / "config.json").unlink()  # as a write that was cut leaves it
    assert fit(bright_and_dark, net, "resnet8", **few)["trained"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="no classifier of ddis fit"):
        fit(bright_and_dark, other, "resnet8", **few)
    with pytest.raises(
        OutputError, match=r"notes\.txt: .* expected a folder, where there is a file: choose"
    ):
        fit(bright_and_dark, other / "notes.txt", "resnet8", **few)


def test_images_that_are_not_one_set_are_refused(bright_and_dark: Path, tmp_path: Path) -> None:
    for out in (bright_and_dark, bright_and_dark / "net"):
        with pytest.raises(ConfigError, match="in the folder of the images, expected another"):
            fit(bright_and_dark, out, "resnet8", training=FEW)
    Image.new("RGB", (20, 20)).save(bright_and_dark / "stray.png")
    with pytest.raises(
        ConfigError, match=r"1 image outside its folders of classes \(stray.png\).*such as bright"
    ):
        fit(bright_and_dark, tmp_path / "net", "resnet8", training=FEW)
    (bright_and_dark / "stray.png").unlink()
    Image.new("RGB", (24, 20)).save(bright_and_dark / "dark" / "03.png")
    with pytest.raises(
        ConfigError, match=r"03.png is of 24 x 20 pixels and the first image of 20 x 20"
    ):
        fit(bright_and_dark, tmp_path / "net", "resnet8", training=FEW)
    with pytest.raises(
        ConfigError, match=r"there is no .*x, expected a folder of images or a .parquet file: c"
    ):
        fit(tmp_path / "x", tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_a_domain_chooses_rows_of_a_parquet_file_alone(
    tmp_path: Path, make_set, make_parquet
) -> None:
    images, test = (
        make_set(tmp_path / "set", 4) / "images",
        make_parquet(tmp_path / "test.parquet", 5),
    )
    report = fit(
        images, tmp_path / "net", "resnet8", test=test, domain="near", training=FEW, image_px=12
    )
    assert report["images"] == {"training": 12, "test": 15}  # of 30 rows
    with pytest.raises(ConfigError, match="domain 'near' was asked of the folder"):
        fit(images, tmp_path / "other", "resnet8", test=images, domain="near", training=FEW)


def test_the_command(
    bright_and_dark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "fit",
        str(bright_and_dark),
        "--out",
        str(tmp_path / "net"),
        "--architecture",
        "resnet8",
        "--image-px",
        "16",
        "--epochs",
        "1",
        "--device",
        "cpu",
    ]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["architecture"] == "resnet8"
    assert main([*command]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "there already, of the same images and settings: nothing was trained" in said
    assert "resnet8 of 2 classes (bright, dark) from 32 images in" in said
    assert "no test images given" in said
    assert main([*command, "--test", str(bright_and_dark), "--out", str(tmp_path / "tested")]) == 0
    said = capsys.readouterr().err
    assert "nothing was trained" not in said
    assert "no test images given" not in said


def test_the_help_says_what_is_true_of_fitting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--help-all"]) == 0
    said = capsys.readouterr().out
    assert "--epochs" in said
    assert "no label" not in said
    assert "--soft-labels" not in said
    assert "protocol" not in said


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_classifier_is_refused_with_the_remedy(
    bright_and_dark: Path, tmp_path: Path, name: str
) -> None:
    fit(bright_and_dark, tmp_path / "net", training=FEW)
    path = tmp_path / "net" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 4
    path.write_bytes(content[:-9] if name == "config.json" else content)
    said = {
        "model.safetensors": r"model\.safetensors has another checksum .*: bring a copy or train again",
        "config.json": r"expected config\.json .*; else save it",
    }
    with pytest.raises(EngineError, match=said[name]):
        load_classifier(str(tmp_path / "net"))
    if name == "config.json":
        with pytest.raises(OutputError, match=r"is damaged.*delete the folder and run the same"):
            fit(bright_and_dark, tmp_path / "net", training=FEW)
