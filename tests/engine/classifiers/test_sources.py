"""Where classifiers come from, and what is said when they do not come."""

import errno
import io
import json
import os
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    ConvNextImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    ResNetModel,
)

from engine.classifiers import Preprocess, load_classifier, save_classifier
from engine.classifiers import sources as classifier_sources
from engine.classifiers.base import statistics_of
from engine.classifiers.cifar_resnet import CifarResNet
from engine.classifiers.statistics.batch_norm import is_batch_norm
from engine.embedded.train.data import DOMAINS
from engine.errors import ConfigError, MissingExtraError, ModelError, OutputError

LABELS = ["dog", "elephant", "giraffe", "guitar", "horse", "house", "person"]
CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture
def resnet20() -> CifarResNet:
    """An untrained ResNet-20 of seven classes, narrower than the paper's."""
    return CifarResNet(20, (4, 6, 8), classes=7).eval()


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "wrapper", ["bare", "state_dict", "model", "safetensors", "parallel", "compiled"]
)
def test_checkpoints_load_however_they_are_wrapped(
    resnet20: CifarResNet, tmp_path: Path, wrapper: str
) -> None:
    weights = resnet20.state_dict()
    file = tmp_path / ("weights.safetensors" if wrapper == "safetensors" else "weights.th")
    match wrapper:
        case "bare":
            torch.save(weights, file)
        case "state_dict" | "model":
            torch.save({wrapper: weights, "best_prec1": 91.7}, file)
        case "safetensors":
            save_file(weights, file)
        case "parallel" | "compiled":
            prefix = {"parallel": "module.", "compiled": "module._orig_mod."}[wrapper]
            torch.save(
                {"state_dict": {prefix + key: value for key, value in weights.items()}}, file
            )
    classifier = load_classifier(str(file), architecture="resnet20", labels=LABELS, device="cpu")
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(classifier.logits(images), resnet20(classifier.preprocess(images)))
    assert classifier.preprocess == Preprocess.squash(32)


@pytest.mark.parametrize(("depth", "hidden"), [(18, (8, 8, 12, 16)), (50, (16, 24, 32, 40))])
def test_large_resnets_load_from_a_checkpoint(
    depth: int, hidden: tuple[int, ...], tmp_path: Path
) -> None:
    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=hidden,
        depths={18: [2, 2, 2, 2], 50: [3, 4, 6, 3]}[depth],
        layer_type="bottleneck" if depth == 50 else "basic",
        num_labels=7,
    )
    network = ResNetForImageClassification(config).eval()
    torch.save(network.state_dict(), tmp_path / "net.pt")
    classifier = load_classifier(
        tmp_path / "net.pt", architecture=f"resnet{depth}", labels=LABELS, device="cpu"
    )
    assert len(classifier.statistics.stored) == {18: 20, 50: 53}[depth]
    images = torch.rand(1, 3, 224, 224)
    assert torch.equal(classifier.logits(images), network(classifier.preprocess(images)).logits)


def test_a_pickle_with_code_is_refused_and_never_executed(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    for number, content in enumerate((Bomb(trace), {"state_dict": {"conv1.weight": Bomb(trace)}})):
        torch.save(content, tmp_path / f"{number}.pt")
        (tmp_path / f"{number}.th").write_bytes(pickle.dumps(content))
        for suffix in ("pt", "th"):
            with pytest.raises(
                ModelError, match=r"holds code and was not executed .*expected tensors only"
            ):
                load_classifier(
                    tmp_path / f"{number}.{suffix}", architecture="resnet20", labels=LABELS
                )
    assert not trace.exists()


@pytest.mark.parametrize("architecture", ["resnet20", None])
def test_whole_modules_in_a_pickle_are_refused(
    resnet20: CifarResNet, tmp_path: Path, architecture: str | None
) -> None:
    torch.save(resnet20, tmp_path / "net.pt")
    with pytest.raises(ModelError, match="not executed"):
        load_classifier(tmp_path / "net.pt", architecture=architecture, labels=LABELS)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_damaged_files_are_refused(resnet20: CifarResNet, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"net{suffix}"
    save = save_file if suffix == ".safetensors" else torch.save
    save(resnet20.state_dict(), file)
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [b"", whole[:7], whole[: len(whole) // 2], rng.bytes(500), b"{}", b"\x80\x02}q\x00."]
    for content in damaged:
        file.write_bytes(content)
        with pytest.raises(ModelError, match=f"^checkpoint {re.escape(str(file))} .*expected"):
            load_classifier(file, architecture="resnet20", labels=LABELS)


def test_files_that_do_not_fit_are_refused(resnet20: CifarResNet, tmp_path: Path) -> None:
    file = tmp_path / "net.pt"
    torch.save(resnet20.state_dict(), file)
    with pytest.raises(
        ConfigError, match=r"with no architecture, expected one of resnet8, .*resnet50"
    ):
        load_classifier(file, labels=LABELS)
    with pytest.raises(ConfigError, match="with architecture 'vgg', expected one of resnet8"):
        load_classifier(file, architecture="vgg", labels=LABELS)
    for other in ("resnet32", "resnet18"):
        with pytest.raises(ModelError, match=f"does not fit {other} .*it fits resnet20; set"):
            load_classifier(file, architecture=other, labels=LABELS)
    with pytest.raises(ConfigError, match=r"7 outputs and 10 labels"):
        load_classifier(file, architecture="resnet20", labels=CIFAR)
    torch.save({"state_dict": {"conv1.weight": 3}}, file)
    with pytest.raises(ModelError, match="is no state dict, expected names with tensors"):
        load_classifier(file, architecture="resnet20", labels=LABELS)


@pytest.mark.parametrize(
    ("source", "error", "wording"),
    [
        (
            "quatsch",
            ModelError,
            "unknown classifier 'quatsch', expected 'embedded:<domain>', 'hf:.*checkpoint file",
        ),
        ("photo", ModelError, "unknown classifier 'photo', .* Did you mean 'embedded:photo'"),
        ("embeded:sketch", ModelError, "Did you mean 'embedded:sketch'"),
        (
            "embedded:carton",
            ModelError,
            "unknown domain 'carton' .* Did you mean 'embedded:cartoon'",
        ),
        ("nowhere/net.th", ModelError, "no checkpoint file nowhere/net.th in .*; expected"),
        ("embedded:opera", ModelError, "unknown domain 'opera' .*expected one of these"),
        ("hf:nobody/nothing", ModelError, "run `hf download nobody/nothing --local-dir FOLDER`"),
        (
            "hf:/no/such/folder",
            ModelError,
            "unknown transformers classifier '/no/such/folder', expected a local",
        ),
    ],
)
def test_unknown_sources_are_answered_with_what_is_accepted(
    source: str, error: type, wording: str
) -> None:
    with pytest.raises(error, match=wording):
        load_classifier(source, architecture=None if ":" in source else "resnet20", labels=LABELS)


def test_a_checkpoint_that_is_missing_is_said_before_its_architecture_is_asked_for() -> None:
    with pytest.raises(
        ModelError,
        match=r"no checkpoint file nowhere/net\.pt in .*, where relative paths begin; expected",
    ):
        load_classifier("nowhere/net.pt", labels=LABELS)


def test_an_architecture_where_the_source_says_it_itself_is_refused(
    tiny_resnet: CifarResNet, tmp_path: Path
) -> None:
    for source in (
        "embedded:photo",
        "hf:a/b",
        "timm:a",
        "torchvision:a",
        "onnx:a.onnx",
        "arch:resnet18",
        tmp_path,
    ):
        with pytest.raises(
            ConfigError, match=f"is 'vgg' with classifier '{source}', expected none: .* Leave it"
        ):
            load_classifier(source, architecture="vgg")
    with pytest.raises(ConfigError, match="with classifier 'CifarResNet', expected none"):
        load_classifier(tiny_resnet, architecture="resnet8", labels=LABELS)


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_a_missing_extra_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingExtraError, match=rf"{package} cannot be imported .*pip install 'ddis\[timm\]'"
    ):
        load_classifier(f"{package}:resnet18")


def test_what_save_classifier_writes_is_read_again(
    tiny_resnet: CifarResNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = CifarResNet(20, (4, 6, 8), classes=7).eval()
    network.bn1.running_var.fill_(1e6)  # beyond float16
    preprocess = Preprocess.squash(24, mean=(0.5,) * 3, std=(0.25,) * 3)
    folder = tmp_path / "classifier-art"
    save_classifier(
        folder, network, architecture="resnet20", labels=LABELS, preprocess=preprocess, accuracy=0.8
    )
    classifier = load_classifier(folder, device="cpu")
    assert classifier.labels == tuple(LABELS)
    assert classifier.preprocess == preprocess
    assert torch.equal(classifier.statistics.stored[0].var, network.bn1.running_var)
    assert json.loads((folder / "config.json").read_text())["accuracy"] == 0.8
    images = torch.rand(2, 3, 24, 24)
    assert torch.allclose(classifier.logits(images), network(preprocess(images)), atol=0.02)
    monkeypatch.setattr(classifier_sources, "EMBEDDED", tmp_path)
    assert load_classifier("embedded:art", device="cpu").fingerprint == classifier.fingerprint
    with pytest.raises(ModelError, match=r"expected one of these: 'embedded:art'. Choose"):
        load_classifier("embedded:opera")
    with pytest.raises(ConfigError, match="architecture is 'mine', expected one of resnet8"):
        save_classifier(folder, network, architecture="mine", labels=LABELS, preprocess=preprocess)
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"cannot be read as a classifier .*write 'hf:"):
        load_classifier(folder)


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_classifier_without_batch_norm_ships_for_each_domain(domain: str) -> None:
    classifier = load_classifier(f"embedded:{domain}-convnext", device="cpu", statistics="energy")
    twin = load_classifier(f"embedded:{domain}", device="cpu")
    assert classifier.labels == twin.labels
    assert classifier.preprocess == twin.preprocess
    assert not any(map(is_batch_norm, classifier.network.modules()))
    bare = load_classifier(f"embedded:{domain}-convnext", device="cpu")
    with pytest.raises(ModelError, match="-convnext' has no BatchNorm layers"):
        statistics_of(bare, "guidance", "")


def transformers_resnet18(labels: list[str] | None = None) -> ResNetForImageClassification:
    names = (
        {"id2label": dict(enumerate(labels)), "label2id": {n: k for k, n in enumerate(labels)}}
        if labels
        else {}
    )
    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 24, 32],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        **names,
    )
    return ResNetForImageClassification(config).eval()


def test_a_transformers_resnet_brings_its_preprocessing_and_labels(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network = transformers_resnet18(LABELS)
    network.save_pretrained(tmp_path)
    ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.875, resample=3).save_pretrained(
        tmp_path
    )
    capfd.readouterr()
    classifier = load_classifier(f"hf:{tmp_path}", device="cpu")
    assert capfd.readouterr() == ("", "")
    assert classifier.labels == tuple(LABELS)
    assert len(classifier.statistics.stored) == 20
    assert (classifier.preprocess.resize, classifier.preprocess.crop) == (73, (64, 64))
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(classifier.logits(images), network(classifier.preprocess(images)).logits)


def test_a_folder_that_was_not_written_whole_is_no_classifier(
    tmp_path: Path, resnet20: CifarResNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, asked = (
        os.replace,
        {"architecture": "resnet20", "labels": LABELS, "preprocess": Preprocess.squash(32)},
    )

    def full(source: str, target: Path) -> None:
        if Path(target).name == "config.json":
            raise OSError(errno.ENOSPC, "no space")
        replace(source, target)

    save_classifier(tmp_path / "net", resnet20, **asked)  # one that is there makes no difference
    monkeypatch.setattr("engine.files.os.replace", full)
    with pytest.raises(OutputError, match=r"config\.json: no space; expected room on the disk"):
        save_classifier(tmp_path / "net", resnet20, **asked)
    assert [file.name for file in (tmp_path / "net").iterdir()] == ["model.safetensors"]
    with pytest.raises(ModelError, match="cannot be read as a classifier"):
        load_classifier(tmp_path / "net")


def test_a_transformers_folder_that_says_too_little_is_refused(tmp_path: Path) -> None:
    network = transformers_resnet18()
    network.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="without preprocessing"):
        load_classifier(f"hf:{tmp_path}")
    with pytest.raises(ConfigError, match="without class names, expected 2"):
        load_classifier(f"hf:{tmp_path}", preprocess=Preprocess.squash(32))
    ResNetModel(network.config).save_pretrained(tmp_path)
    with pytest.raises(
        ModelError, match=r"lack classifier.1.bias.* a backbone, whose head would be random"
    ):
        load_classifier(f"hf:{tmp_path}", preprocess=Preprocess.squash(32), labels=["a", "b"])
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"cannot be read as a transformers image classifier"):
        load_classifier(f"hf:{tmp_path}")


@pytest.mark.parametrize("depth", [20])
def test_third_party_checkpoints_recognise_cifar_10(
    depth: int, third_party_models: Path, data_folder: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    (file,) = third_party_models.glob(f"resnet{depth}-*.th")
    classifier = load_classifier(file, architecture=f"resnet{depth}", labels=CIFAR, device="cpu")
    rows = parquet.read_table(data_folder / "cifar10-test.parquet").to_pylist()[
        ::20
    ]  # sorted by class
    pixels = [np.array(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in rows]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255
    truth = torch.tensor([CIFAR.index(row["label"]) for row in rows])
    with torch.no_grad():
        right = classifier.logits(images).argmax(1) == truth
    assert len(right) == 500
    assert right.float().mean() > 0.76  # about 80 % on these lossy JPEGs, 92 % on the originals
