"""timm's and torchvision's networks as classifiers. Run by `make test-timm`; nothing is downloaded."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from engine.classifiers import Preprocess, load_classifier
from engine.errors import ModelError

pytestmark = pytest.mark.timm
LABELS = ["dog", "elephant", "horse", "house"]


def timm_network(name: str, folder: Path, **overlay: object) -> nn.Module:
    """An untrained network, its data settings overlaid, saved to a folder as timm's users share theirs."""
    timm = pytest.importorskip("timm")
    network = timm.create_model(
        name, pretrained=False, num_classes=4, pretrained_cfg_overlay=overlay
    )
    trained_for_a_while(network)
    timm.models.save_for_hf(
        network, folder, safe_serialization=True, model_config={"label_names": LABELS}
    )
    return network.eval()


def trained_for_a_while(network: nn.Module) -> None:
    """Running statistics unlike those of a fresh layer, and unlike each other."""
    for layer in network.modules():
        if hasattr(layer, "running_var"):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)


def check_preprocessing(
    preprocess: Preprocess, transform: Callable[[Image.Image], torch.Tensor]
) -> None:
    """Equal to the library's own on a square image, but for Pillow's rounding to whole levels, twice."""
    coarse = np.random.default_rng(0).integers(
        60, 190, (5, 5, 3), dtype=np.uint8
    )  # no overshoot is clipped
    image = Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    found, expected = preprocess(pixels)[0], transform(image)
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) < 1.6 / 255 / min(preprocess.std)


@pytest.mark.parametrize(
    ("name", "kinds", "depth"),
    [("resnet18", {"BatchNorm2d"}, 20), ("test_efficientnet", {"BatchNormAct2d"}, 13)],
)
def test_a_timm_network_brings_its_preprocessing_labels_and_statistics(
    name: str, kinds: set[str], depth: int, tmp_path: Path
) -> None:
    network = timm_network(name, tmp_path)
    classifier = load_classifier(f"timm:local-dir:{tmp_path}", device="cpu")
    assert classifier.labels == tuple(LABELS)
    assert {
        type(layer).__name__ for layer in [tap.layer for tap in classifier.statistics.taps]
    } == kinds
    assert len(classifier.statistics.stored) == depth
    own = [layer for layer in network.modules() if type(layer).__name__ in kinds]
    assert sorted(float(m.mean.sum()) for m in classifier.statistics.stored) == sorted(
        float(layer.running_mean.sum()) for layer in own
    )
    first = network.bn1  # reads what the stem's convolution gives
    assert torch.equal(classifier.statistics.stored[0].mean, first.running_mean)
    assert torch.equal(classifier.statistics.stored[0].var, first.running_var)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(classifier.logits(images), network(classifier.preprocess(images)))


@pytest.mark.parametrize(
    "settings",
    [
        {"input_size": (3, 64, 64), "crop_pct": 0.875, "interpolation": "bicubic"},
        {
            "input_size": (3, 64, 64),
            "crop_pct": 0.8,
            "crop_mode": "squash",
            "interpolation": "bilinear",
        },
        {"input_size": (3, 64, 48), "crop_pct": 1.0, "mean": (0.5,) * 3, "std": (0.25,) * 3},
        {"input_size": (3, 64, 48), "crop_pct": 1.0, "crop_mode": "squash"},
    ],
    ids=["centre", "squash", "oblong", "squash-oblong"],
)
def test_timm_preprocessing_is_timms_own(settings: dict[str, Any], tmp_path: Path) -> None:
    network = timm_network("test_efficientnet", tmp_path, **settings)
    data = pytest.importorskip("timm").data
    transform = data.create_transform(**data.resolve_model_data_config(network), is_training=False)
    check_preprocessing(
        load_classifier(f"timm:local-dir:{tmp_path}", device="cpu").preprocess, transform
    )


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_torchvision_checkpoints_load_without_torchvision(depth: int, tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision").models
    network = models.get_model(f"resnet{depth}", weights=None, num_classes=4).eval()
    torch.save({"state_dict": network.state_dict()}, tmp_path / "net.pt")
    classifier = load_classifier(
        tmp_path / "net.pt", architecture=f"resnet{depth}", labels=LABELS, device="cpu"
    )
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = network(classifier.preprocess(images))
    assert torch.allclose(
        classifier.logits(images), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
    )


def test_torchvision_frozen_batch_norm_is_found() -> None:
    torchvision = pytest.importorskip("torchvision")
    network = torchvision.models.resnet18(
        weights=None, num_classes=4, norm_layer=torchvision.ops.FrozenBatchNorm2d
    )
    classifier = load_classifier(
        network, labels=LABELS, preprocess=Preprocess.squash(32), device="cpu"
    )
    assert len(classifier.statistics.stored) == 20


@pytest.fixture
def torchvision_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torchvision looks for the weights of its resnet18 before it downloads them."""
    weights = pytest.importorskip("torchvision").models.ResNet18_Weights.DEFAULT
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints" / weights.url.rpartition("/")[2]


def test_torchvision_weights_are_read_with_their_transforms_and_categories(
    torchvision_cache: Path,
) -> None:
    models = pytest.importorskip("torchvision").models
    network = models.resnet18(weights=None)
    trained_for_a_while(network)
    torch.save(network.state_dict(), torchvision_cache)
    classifier = load_classifier("torchvision:resnet18", device="cpu")
    assert classifier.labels[0] == "tench"
    assert len(classifier.labels) == 1000
    assert len(classifier.statistics.stored) == 20
    assert torch.equal(classifier.statistics.stored[0].mean, network.bn1.running_mean)
    assert (classifier.preprocess.resize, classifier.preprocess.crop) == (256, (224, 224))
    check_preprocessing(classifier.preprocess, models.ResNet18_Weights.DEFAULT.transforms())


def test_torchvision_weights_that_are_damaged_or_code_are_refused(torchvision_cache: Path) -> None:
    for content in (b"", b"nothing", pickle.dumps(print, protocol=2)):
        torchvision_cache.write_bytes(content)
        with pytest.raises(
            ModelError, match=r"'resnet18' could not be read .*expected the file of .*resnet18"
        ):
            load_classifier("torchvision:resnet18")


def test_without_network_the_errors_say_what_to_fetch(
    torchvision_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*arguments: object, **settings: object) -> None:
        raise OSError("Name or service not known")

    pytest.importorskip("timm")
    for name in ("resnet18", "hf-hub:timm/resnet18.a1_in1k"):
        with pytest.raises(
            ModelError, match=r"run `hf download timm/resnet18.a1_in1k --local-dir FOLDER`"
        ):
            load_classifier(f"timm:{name}")
    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    with pytest.raises(
        ModelError,
        match=rf"not known\), expected the file of https:.* in .*{torchvision_cache.parent.name}:",
    ):
        load_classifier("torchvision:resnet18")


def test_unknown_names_and_folders_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    for name in ("resnet1833", "resnet18.nobody"):
        with pytest.raises(
            ModelError, match=f"unknown timm classifier '{name}' .*check the spelling"
        ):
            load_classifier(f"timm:{name}")
    with pytest.raises(
        ModelError, match=r"expected a folder with config.json and model.safetensors"
    ):
        load_classifier(f"timm:local-dir:{tmp_path}")
    timm_network("test_efficientnet", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"SafetensorError.*expected a folder with config.json"):
        load_classifier(f"timm:local-dir:{tmp_path}")
    with pytest.raises(
        ModelError, match=r"unknown torchvision classifier 'nothing', expected one of .*resnet18"
    ):
        load_classifier("torchvision:nothing")
