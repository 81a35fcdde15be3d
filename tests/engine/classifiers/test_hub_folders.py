"""Folders of the hub as people have them: code of their own, grey images, settings that are not read."""

import io
import json
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ResNetConfig, ResNetForImageClassification

from engine.classifiers import Preprocess, load_classifier
from engine.errors import ClassifierWarning, ConfigError, ModelError
from engine.settings.reads import Reads

PROCESSOR = {
    "image_processor_type": "ConvNextImageProcessor",
    "size": {"height": 32, "width": 32},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
CODE = "open({!r}, 'w')\nclass C: pass\nclass M: pass\n"


@pytest.fixture
def folder(tmp_path: Path):
    """saved(processor, **config): a folder of a tiny ResNet."""

    def saved(processor: dict | None = None, **changes: object) -> Path:
        config = ResNetConfig(
            embedding_size=4,
            hidden_sizes=[4, 8],
            depths=[1, 1],
            layer_type="basic",
            num_labels=3,
            **changes,
        )
        network = ResNetForImageClassification(config)
        for name, buffer in network.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
        network.save_pretrained(tmp_path / "hub")
        settings = PROCESSOR if processor is None else processor
        (tmp_path / "hub" / "preprocessor_config.json").write_text(json.dumps(settings))
        return tmp_path / "hub"

    return saved


def edited(folder: Path, **changes: object) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {
            "model_type": "mynet",
            "auto_map": {"AutoConfig": "own.C", "AutoModelForImageClassification": "own.M"},
        },
        {"auto_map": {"AutoModelForImageClassification": "own.M"}},
        {"auto_map": {"AutoModelForImageClassification": "someone/else--own.M"}},
    ],
    ids=["unknown", "known", "elsewhere"],
)
def test_code_of_a_repository_is_never_run_and_nothing_is_asked(
    folder, changes: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = edited(folder(), **changes)
    (place / "own.py").write_text(CODE.format(str(tmp_path / "ran")))
    answers = io.StringIO("y\n" * 9)
    monkeypatch.setattr(sys, "stdin", answers)
    with pytest.raises(
        ModelError, match=r"network of its own Python code .*code from a repository is never run"
    ):
        load_classifier(f"hf:{place}", labels=["a", "b", "c"], device="cpu")
    assert not (tmp_path / "ran").exists()
    assert answers.tell() == 0


def test_an_unknown_kind_without_code_is_refused_without_a_question(folder) -> None:
    place = edited(folder(), model_type="mynet")
    with pytest.raises(ModelError, match="cannot be read as a transformers image classifier"):
        load_classifier(f"hf:{place}", labels=["a", "b", "c"], device="cpu")


@pytest.mark.parametrize("mean", [[0.5], [0.5, 0.5, 0.5], 0.5])
def test_a_network_of_grey_images_gets_the_brightness(folder, mean: object) -> None:
    place = folder({**PROCESSOR, "image_mean": mean, "image_std": mean}, num_channels=1)
    classifier = load_classifier(f"hf:{place}", labels=["a", "b", "c"], device="cpu")
    own = ResNetForImageClassification.from_pretrained(place).eval()
    shade = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        expected = own((classifier.preprocess.cut(shade) - 0.5) / 0.5).logits
    torch.testing.assert_close(
        classifier.logits(shade.expand(-1, 3, -1, -1)), expected, atol=1e-4, rtol=1e-4
    )


def test_tensors_that_the_network_has_no_place_for_are_warned_of(folder) -> None:
    place = folder()
    weights = load_file(place / "model.safetensors")
    save_file(
        weights | {"decoder.weight": torch.ones(2)}, place / "model.safetensors", {"format": "pt"}
    )
    with pytest.warns(
        ClassifierWarning, match=r"hold 1 tensors that its network does not have \(first: decoder"
    ):
        load_classifier(f"hf:{place}", labels=["a", "b", "c"], device="cpu")


@pytest.mark.parametrize("step", ["do_pad", "do_thumbnail"])
def test_preprocessing_that_is_not_read_is_refused(folder, step: str) -> None:
    place = folder({**PROCESSOR, step: True})
    with pytest.raises(ModelError, match=f"asks for {step}"):
        load_classifier(f"hf:{place}", labels=["a", "b", "c"], device="cpu")


BYTES = {**PROCESSOR, "image_mean": [123.0, 116.0, 103.0], "image_std": [58.0, 57.0, 57.0]}
UNREAD = {
    "bytes": (
        BYTES,
        r"cannot be used: preprocessing has mean \(123.* these are of pixels up to 255",
    ),
    "longest": (
        {**PROCESSOR, "size": {"longest_edge": 32}},
        r"cannot be used: .*'longest_edge': 32",
    ),
    "list": ([PROCESSOR], "cannot be read .*expected the settings of an image processor: save the"),
    "pad": ({**PROCESSOR, "do_pad": True}, "cannot be used: .*asks for do_pad"),
}


@pytest.mark.parametrize(("processor", "wording"), UNREAD.values(), ids=UNREAD)
def test_settings_that_replace_a_file_that_cannot_be_used_do(
    folder, processor: dict, wording: str
) -> None:
    place = folder(processor)
    names = {"labels": ["a", "b", "c"], "device": "cpu"}
    with pytest.raises(
        ModelError, match=f"preprocessor_config.json {wording}.* set `input_px`, `mean` and `std`"
    ) as refused:
        load_classifier(f"hf:{place}", **names)
    assert "model.safetensors" not in str(refused.value)
    given = Reads(input_px=24, mean=(123.0, 116.0, 103.0), std=(58.0,), pixel_max=255.0)
    classifier = load_classifier(f"hf:{place}", **names, reads=given)
    assert classifier.preprocess == Preprocess.squash(24).reading(given)
    own = Preprocess.squash(16)
    assert load_classifier(f"hf:{place}", **names, preprocess=own).preprocess == own


def test_a_folder_without_its_preprocessing_says_which_options_give_it(folder) -> None:
    place = folder()
    (place / "preprocessor_config.json").unlink()
    with pytest.raises(
        ConfigError, match=r"without preprocessing, .*set `input_px`, `mean` and `std`"
    ):
        load_classifier(f"hf:{place}", labels=["a", "b", "c"], device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ClassifierWarning)
        given = Reads(input_px=32, mean=(0.5,), std=(0.5,))
        classifier = load_classifier(
            f"hf:{place}", labels=["a", "b", "c"], reads=given, device="cpu"
        )
    assert classifier.preprocess.crop == (32, 32)
    assert classifier.preprocess.mean == (0.5, 0.5, 0.5)
