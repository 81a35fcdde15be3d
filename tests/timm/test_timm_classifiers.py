"""timm's and torchvision's networks as classifiers. Run by `make test-timm`; nothing is downloaded."""

from pathlib import Path

import pytest
import torch

from engine.errors import ModelError
from engine.models import Preprocess, load_classifier

pytestmark = pytest.mark.timm
LABELS = ["dog", "elephant", "horse", "house"]


def test_a_timm_resnet18_brings_its_preprocessing_and_labels(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model("resnet18", pretrained=False, num_classes=4).eval()
    timm.models.save_for_hf(network, tmp_path, safe_serialization=True, model_config={"label_names": LABELS})
    classifier = load_classifier(f"timm:local-dir:{tmp_path}", device="cpu")
    assert classifier.labels == tuple(LABELS)
    assert len(classifier.stored) == 20
    assert classifier.preprocess.crop == (224, 224)
    assert classifier.preprocess.interpolation == "bicubic"
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(classifier.logits(images), network(classifier.preprocess(images)))


def test_timm_batch_norms_with_an_activation_are_found() -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model("densenet121", pretrained=False, num_classes=4)
    classifier = load_classifier(network, labels=LABELS, preprocess=Preprocess.squash(32), device="cpu")
    assert "BatchNormAct2d" in {type(layer).__name__ for layer in classifier.norm_layers}
    assert len(classifier.stored) == 121


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
    classifier = load_classifier(network, labels=LABELS, preprocess=Preprocess.squash(32), device="cpu")
    assert len(classifier.stored) == 20


def test_torchvision_weights_are_read_with_their_transforms_and_categories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = pytest.importorskip("torchvision").models
    network = models.resnet18(weights=None).eval()
    url = models.ResNet18_Weights.DEFAULT.url
    (tmp_path / "checkpoints").mkdir()
    torch.save(network.state_dict(), tmp_path / "checkpoints" / url.rpartition("/")[2])
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    classifier = load_classifier("torchvision:resnet18", device="cpu")
    assert classifier.labels[0] == "tench"
    assert len(classifier.labels) == 1000
    assert (classifier.preprocess.resize, classifier.preprocess.crop) == (256, (224, 224))


def test_unknown_names_are_refused() -> None:
    pytest.importorskip("timm")
    with pytest.raises(ModelError, match=r"timm did not give a pretrained 'resnet1833' .*Unknown model"):
        load_classifier("timm:resnet1833")
    with pytest.raises(
        ModelError, match=r"unknown torchvision classifier 'nothing', expected one of .*resnet18"
    ):
        load_classifier("torchvision:nothing")
