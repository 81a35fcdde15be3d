"""Classifiers from elsewhere go through generate: a third party's checkpoint, other libraries' models."""

from pathlib import Path

import pytest
import torch
from transformers import ConvNextImageProcessorPil, ResNetConfig, ResNetForImageClassification

from engine.classifiers import load_classifier
from engine.priors import Prior
from engine.runners.generate import generate
from engine.settings import Sampling
from engine.types import Sample

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
SHORT = Sampling(steps=3, batch=10)


def check(samples: list[Sample], classes: int) -> None:
    assert all(sample.logits.shape == (classes,) for sample in samples)
    assert all(sample.image.isfinite().all() and sample.l_bn > 0 for sample in samples)
    assert all(0 <= sample.confidence <= 1 for sample in samples)


def check_guided(samples: list[Sample], plain: list[Sample]) -> None:
    assert all(sample.curve and all(value > 0 for value in sample.curve) for sample in samples)
    for guided, unguided in zip(samples, plain, strict=True):
        assert not unguided.curve
        assert not torch.equal(guided.image, unguided.image)


def test_a_third_partys_resnet20_with_the_embedded_prior(
    third_party_models: Path, tmp_path: Path
) -> None:
    (checkpoint,) = third_party_models.glob("resnet20-*.th")
    classifier = load_classifier(checkpoint, architecture="resnet20", labels=CIFAR10, device="cpu")
    samples = list(generate(classifier, "embedded", None, 1, sampling=SHORT, out=tmp_path / "set"))
    assert {sample.label for sample in samples} == set(CIFAR10)
    check(samples, 10)
    check_guided(
        samples, list(generate(classifier, "embedded", None, 1, method="plain", sampling=SHORT))
    )
    assert (tmp_path / "set" / "images" / "airplane" / "00000.png").is_file()


def test_a_transformers_resnet18_from_a_local_folder(small_prior: Prior, tmp_path: Path) -> None:
    torch.manual_seed(0)
    names = ["dog", "elephant", "guitar", "horse"]
    config = ResNetConfig(
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        num_labels=4,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    ResNetForImageClassification(config).save_pretrained(tmp_path / "resnet18")
    ConvNextImageProcessorPil(size={"shortest_edge": 64}, crop_pct=0.875).save_pretrained(
        tmp_path / "resnet18"
    )
    classifier = load_classifier(f"hf:{tmp_path / 'resnet18'}", device="cpu")
    assert len([tap.layer for tap in classifier.statistics.taps]) == 20
    samples = list(generate(classifier, small_prior, None, 1, sampling=SHORT))
    assert [sample.label for sample in samples] == names
    check(samples, 4)
    check_guided(
        samples, list(generate(classifier, small_prior, None, 1, method="plain", sampling=SHORT))
    )


@pytest.mark.timm
@pytest.mark.parametrize("name", ["resnet18", "test_efficientnet"])
def test_a_timm_network_from_a_local_folder(name: str, small_prior: Prior, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    names = ["dog", "elephant", "guitar", "horse"]
    network = timm.create_model(
        name, pretrained=False, num_classes=4, pretrained_cfg_overlay={"input_size": (3, 64, 64)}
    )
    timm.models.save_for_hf(
        network, tmp_path / name, safe_serialization=True, model_config={"label_names": names}
    )
    classifier = load_classifier(f"timm:local-dir:{tmp_path / name}", device="cpu")
    assert classifier.input_px == 64
    samples = list(generate(classifier, small_prior, None, 1, sampling=SHORT, out=tmp_path / "set"))
    assert [sample.label for sample in samples] == names
    check(samples, 4)
    check_guided(
        samples, list(generate(classifier, small_prior, None, 1, method="plain", sampling=SHORT))
    )


@pytest.mark.timm
def test_torchvisions_resnet18(
    small_prior: Prior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = pytest.importorskip("torchvision").models
    file = tmp_path / "checkpoints" / models.ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    file.parent.mkdir()
    torch.save(models.resnet18(weights=None).state_dict(), file)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    classifier = load_classifier("torchvision:resnet18", device="cpu")
    names = ["tench", "goldfish"]
    samples = list(generate(classifier, small_prior, names, 1, sampling=SHORT))
    assert [sample.label for sample in samples] == names
    check(samples, 1000)
    check_guided(
        samples, list(generate(classifier, small_prior, names, 1, method="plain", sampling=SHORT))
    )
