"""A classifier of labelled images: it learns them, it loads, and what cannot be learned is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine import Distillation, fit, load_classifier
from engine.cli import main
from engine.downstream.fit import FITTING
from engine.errors import ConfigError

FEW = Distillation(
    epochs=8, batch=8, learning_rate=1e-2, temperature=1.0, soft_labels="manifest", augment=False
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
        bright_and_dark, tmp_path / "net", "resnet8", test=bright_and_dark, training=FEW, image_px=16
    )
    assert report["classes"] == ["bright", "dark"]
    assert report["images"] == {"training": 32, "test": 32}
    assert report["accuracy"]["training"] > 0.9
    classifier = load_classifier(tmp_path / "net", device="cpu")
    assert classifier.labels == ("bright", "dark")
    assert classifier.input_px == 16
    assert (
        classifier.stored[0].mean.abs().sum() > 0
    )  # running statistics of these images, not a new network's
    again = fit(bright_and_dark, tmp_path / "again", "resnet8", training=FEW, image_px=16)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("net", "again")]
    assert weights[0] == weights[1]
    assert again["accuracy"]["training"] == report["accuracy"]["training"]


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


def test_the_command(bright_and_dark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["fit", str(bright_and_dark), "--out", str(tmp_path / "net"), "--architecture", "resnet8",
               "--image-px", "16", "--epochs", "1", "--device", "cpu"]  # fmt: skip
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["architecture"] == "resnet8"
    assert main([*command]) == 0
    assert "recognises" in capsys.readouterr().err
