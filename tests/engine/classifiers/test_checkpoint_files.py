"""Checkpoint files as people have them: other stems, prefixes, several sets of weights, no weights at all."""

import argparse
import io
import json
import os
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.classifiers import Preprocess, load_classifier, save_classifier
from engine.classifiers.architectures import architecture_of
from engine.classifiers.cifar_resnet import CifarResNet
from engine.errors import ClassifierWarning, ConfigError, ModelError
from engine.settings.reads import Reads

LABELS = ["dog", "horse", "house", "cat"]


class Block(nn.Module):
    def __init__(self, into: int, out: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(into, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        changes = stride > 1 or into != out
        beside = [nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out)] * changes
        setattr(self, shortcut, nn.Sequential(*beside))
        self.beside = [getattr(self, shortcut)]

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.beside[0](x))


class ResNet18(nn.Module):
    """ResNet-18 as people write it for 32 px images: torchvision's names, or those of public CIFAR code.

    kernel: of the first convolution, whose stride is 1; nothing is pooled behind it.
    """

    def __init__(self, kernel: int = 3, shortcut: str = "downsample", head: str = "fc") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, kernel, 1, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        sizes = [(4, 4, 1), (4, 8, 2), (8, 12, 2), (12, 16, 2)]
        for number, (into, out, stride) in enumerate(sizes, 1):
            blocks = Block(into, out, stride, shortcut), Block(out, out, 1, shortcut)
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        setattr(self, head, nn.Linear(16, 4))
        self.head = [getattr(self, head)]
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.uniform_(-0.5, 0.5)
                layer.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for number in range(1, 5):
            x = getattr(self, f"layer{number}")(x)
        return self.head[0](x.mean((2, 3)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "net.pt"


@pytest.fixture
def small() -> CifarResNet:
    """A ResNet-8 with statistics."""
    network = CifarResNet(8, (2, 3, 4), classes=4)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_var.uniform_(0.5, 2)
    return network.eval()


def load(file: Path, architecture: str | None = "resnet8", **asked: object):
    return load_classifier(file, architecture=architecture, labels=LABELS, device="cpu", **asked)


@pytest.mark.parametrize(
    ("shortcut", "head"),
    [("downsample", "fc"), ("shortcut", "linear")],
    ids=["torchvision", "cifar"],
)
def test_a_cifar_stem_is_an_architecture_of_its_own(shortcut: str, head: str, file: Path) -> None:
    network = ResNet18(shortcut=shortcut, head=head).eval()
    torch.save(network.state_dict(), file)
    classifier = load(file, "resnet18-cifar")
    images = torch.rand(3, 3, 32, 32)
    expected = network(Preprocess.squash(32)(images))
    torch.testing.assert_close(classifier.logits(images), expected)
    assert architecture_of(classifier.network) == "resnet18-cifar"
    save_classifier(
        file.with_name("saved"),
        classifier.network,
        architecture="resnet18-cifar",
        labels=LABELS,
        preprocess=classifier.preprocess,
    )
    again = load_classifier(file.with_name("saved"), device="cpu")
    torch.testing.assert_close(again.logits(images), expected, atol=5e-3, rtol=5e-3)  # in float16


@pytest.mark.parametrize(
    ("kernel", "architecture", "wording"),
    [
        (
            3,
            "resnet18",
            "kernel of 3 x 3, expected 7 x 7; resnet18-cifar has that one, with stride 1",
        ),
        (
            7,
            "resnet18-cifar",
            "kernel of 7 x 7, expected 3 x 3; resnet18 has that one, with stride 2",
        ),
        (5, "resnet18", "kernel of 5 x 5, expected 7 x 7; only Python code can say"),
        (1, "resnet18-cifar", "kernel of 1 x 1, expected 3 x 3; only Python code can say"),
    ],
)
def test_another_stem_is_never_loaded(
    kernel: int, architecture: str, wording: str, file: Path
) -> None:
    torch.save(ResNet18(kernel).state_dict(), file)
    with pytest.raises(
        ModelError, match=f"does not fit {architecture}: its first convolution .*{wording}"
    ):
        load(file, architecture)


@pytest.mark.parametrize("key", ["layer1.0.conv1.weight", "layer3.0.conv2.weight", "conv1.weight"])
def test_a_smaller_kernel_is_another_network(key: str, small: CifarResNet, file: Path) -> None:
    weights = small.state_dict()
    weights[key] = weights[key][:, :, 1:2, 1:2].clone()
    torch.save(weights, file)
    with pytest.raises(
        ModelError,
        match=rf"1 are of another shape, {re.escape(repr(key))} first \(.*1x1 for .*3x3\)",
    ):
        load(file)


def test_fewer_channels_are_a_pruned_network(small: CifarResNet, file: Path) -> None:
    weights = small.state_dict()
    for key in ("conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"):
        weights[f"layer2.0.{key}"] = weights[f"layer2.0.{key}"][:2].clone()
    weights["layer2.0.conv2.weight"] = weights["layer2.0.conv2.weight"][:, :2].clone()
    torch.save(weights, file)
    assert load(file).network.layer2[0].conv1.out_channels == 2


@pytest.mark.parametrize(
    "nested",
    [
        lambda w: {"state_dict": {f"model.{k}": v for k, v in w.items()}, "epoch": 3},
        lambda w: {"net": w, "acc": 93.1},
        lambda w: {
            "model_state_dict": w,
            "optimizer_state_dict": {"state": {0: {"exp_avg": w["conv1.weight"]}}},
        },
        lambda w: {"checkpoint": {"model": {f"module.backbone.{k}": v for k, v in w.items()}}},
        lambda w: {f"module._orig_mod.{k}": v for k, v in w.items()},
        lambda w: {f"_fsdp_wrapped_module.{k}": v for k, v in w.items()},
        lambda w: {**{f"student.net.{k}": v for k, v in w.items()}, "temperature": torch.ones(())},
        lambda w: {"n_averaged": torch.tensor(5), **{f"module.{k}": v for k, v in w.items()}},
        lambda w: {"params": w, "meta": {"labels": LABELS}},
    ],
    ids=["lightning", "net", "trainer", "deep", "compiled", "fsdp", "beside", "swa", "params"],
)
@pytest.mark.filterwarnings("ignore::engine.errors.ClassifierWarning")
def test_weights_are_found_under_whatever_prefix(
    nested: Callable, small: CifarResNet, file: Path
) -> None:
    torch.save(nested(small.state_dict()), file)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(load(file).logits(images), small(Preprocess.squash(32)(images)))


SETS = {
    "timm": ("state_dict", "state_dict_ema"),
    "nested": ("model", "model_ema"),
    "lightning": ("state_dict.net", "callbacks.EMA.weights"),
    "swa": ("net", "swa_model.module"),
}


@pytest.mark.parametrize("names", SETS.values(), ids=SETS)
def test_of_several_sets_of_weights_one_is_named(
    names: tuple[str, str], small: CifarResNet, file: Path
) -> None:
    plain = small.state_dict()
    averaged = {
        key: value * 0.9 if value.is_floating_point() else value for key, value in plain.items()
    }
    content: dict = {}
    for name, weights in zip(names, (plain, averaged), strict=True):
        *outer, last = name.split(".")
        inside = content
        for part in outer:
            inside = inside.setdefault(part, {})
        inside[last] = weights
    torch.save(content, file)
    said = rf"holds 2 sets of weights \({re.escape(', '.join(names))}\): took {re.escape(names[0])}\. `weights` ch"
    with pytest.warns(ClassifierWarning, match=said):
        assert torch.equal(load(file).network.conv1.weight, plain["conv1.weight"])
    for asked in (
        names[1],
        {"timm": "ema", "nested": "EMA", "lightning": "ema", "swa": "swa"}[
            next(key for key, value in SETS.items() if value == names)
        ],
    ):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*sets of weights")
            chosen = load(file, weights=asked)
        assert torch.equal(chosen.network.conv1.weight, averaged["conv1.weight"])
    with pytest.raises(ConfigError, match=r"weights is 'best' with checkpoint .*expected one of"):
        load(file, weights="best")


def test_a_set_of_weights_is_of_checkpoints_with_several(small: CifarResNet, file: Path) -> None:
    torch.save({"conv1.weight": torch.ones(1)}, file)
    with pytest.raises(ConfigError, match="expected none: it holds one set"):
        load(file, weights="ema")
    with pytest.raises(
        ConfigError, match="weights is 'ema' with classifier 'embedded:photo', expected none"
    ):
        load_classifier("embedded:photo", weights="ema")


def _zip(**content: bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, value in content.items():
            archive.writestr(name.replace("__", "/"), value)
    return held.getvalue()


def _scripted() -> bytes:
    held = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), held)
    return held.getvalue()


FILES = {
    "lfs": (
        ".pth",
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "run `git lfs pull`",
    ),
    "lfs-safetensors": (
        ".safetensors",
        lambda: b"version https://git-lfs.github.com/spec/v1\noid",
        "git lfs pull",
    ),
    "html": (
        ".pt",
        lambda: b"\n<!DOCTYPE html><html>Google Drive",
        "an HTML page, .*download the file behind it",
    ),
    "html-old": (".bin", lambda: b"<HTML><HEAD>", "an HTML page"),
    "xml": (".pt", lambda: b"<?xml version='1.0'?><Error>AccessDenied", "an HTML page"),
    "server": (
        ".pt",
        lambda: b'{"error": "Repository not found"}',
        "answer of a server that refused",
    ),
    "torchscript": (
        ".pt",
        _scripted,
        "a TorchScript file, .*torch.jit.load in Python and save its `state_dict",
    ),
    "export": (
        ".pt2",
        lambda: _zip(archive_format=b"pt2"),
        "a program of torch.export.*save its `state_dict",
    ),
    "zip": (".zip", lambda: _zip(weights__net=b"1"), "an archive, .*unpack it"),
    "gzip": (".pth.gz", lambda: b"\x1f\x8b\x08\x00", "gzip, .*unpack it"),
    "hdf5": (".h5", lambda: b"\x89HDF\r\n\x1a\n", "HDF5, as Keras writes it"),
    "tflite": (".tflite", lambda: b"\x1c\0\0\0TFL3", "a TensorFlow Lite file"),
    "onnx": (".onnx", lambda: b"\x08\x07\x12", "an ONNX file, .*write 'onnx:' in front"),
    "gguf": (".gguf", lambda: b"GGUF\x03", "of a language model"),
    "index": (".json", lambda: b'{"weight_map": {}}', "JSON, which holds no weights"),
    "numpy": (".npy", lambda: b"\x93NUMPY\x01", "a NumPy array"),
}


@pytest.mark.parametrize(("ending", "content", "wording"), FILES.values(), ids=FILES)
@pytest.mark.parametrize("architecture", ["resnet8", None])
def test_a_file_that_is_no_checkpoint_is_named_for_what_it_is(
    ending: str, content: Callable, wording: str, architecture: str | None, tmp_path: Path
) -> None:
    file = tmp_path / f"net{ending}"
    file.write_bytes(content())
    with pytest.raises(ModelError, match=rf"^checkpoint {re.escape(str(file))} is .*{wording}"):
        load(file, architecture)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "pickle"])
def test_a_file_is_read_by_how_it_begins_not_by_its_ending(
    small: CifarResNet, tmp_path: Path, old: bool
) -> None:
    misnamed, mistaken = tmp_path / "net.safetensors", tmp_path / "net.bin"
    torch.save(small.state_dict(), misnamed, _use_new_zipfile_serialization=not old)
    save_file(small.state_dict(), mistaken)
    for file in (misnamed, mistaken):
        assert torch.equal(load(file).network.conv1.weight, small.conv1.weight)


class Runs:
    def __reduce__(self) -> tuple:
        return os.system, ("true",)


IN_THE_WAY = {
    "module": (lambda net: net, "GLOBAL .*cifar_resnet.CifarResNet was not an allowed"),
    "options": (
        lambda net: {"net": net.state_dict(), "args": argparse.Namespace(lr=0.1)},
        "GLOBAL argparse.Namespace was not an allowed",
    ),
    "path": (
        lambda net: {**net.state_dict(), "from": Path("a")},
        "GLOBAL pathlib.*PosixPath was not an allowed",
    ),
    "numpy": (
        lambda net: {**net.state_dict(), "accuracy": np.float64(0.9)},
        "GLOBAL numpy.*scalar was not an allowed",
    ),
    "command": (lambda net: {**net.state_dict(), "runs": Runs()}, "GLOBAL posix.system whose"),
}


@pytest.mark.parametrize(("content", "wording"), IN_THE_WAY.values(), ids=IN_THE_WAY)
def test_what_is_in_the_way_of_reading_a_pickle_is_named(
    small: CifarResNet, file: Path, content: Callable, wording: str
) -> None:
    torch.save(content(small), file)
    with pytest.raises(ModelError, match=f"holds code .*{wording}") as refused:
        load(file)
    assert "\x1b" not in str(refused.value)
    assert not re.search("two options|PyTorch 2.6|Please", str(refused.value))


def test_a_backbone_without_a_head_is_named(small: CifarResNet, file: Path) -> None:
    weights = {key: value for key, value in small.state_dict().items() if "linear" not in key}
    torch.save(weights, file)
    with pytest.raises(ModelError, match="no last layer that gives class scores: it is a backbone"):
        load(file)


def test_what_is_missing_and_too_much_is_counted(small: CifarResNet, file: Path) -> None:
    weights = small.state_dict()
    weights["layer2.0.shortcut.0.weight"] = torch.ones(3, 2, 1, 1)
    del weights["layer3.0.bn2.weight"]
    torch.save(weights, file)
    with pytest.raises(
        ModelError, match=r"lacks 1 of \d+ tensors, 'layer3.0.bn2.weight' first; it has 1 more"
    ):
        load(file)


@pytest.mark.parametrize("architecture", ["resnet14", "resnet18", "resnet50-cifar"])
def test_the_architecture_that_fits_is_offered(
    architecture: str, small: CifarResNet, file: Path
) -> None:
    save_file(small.state_dict(), file.with_suffix(".safetensors"))
    with pytest.raises(
        ModelError, match=f"does not fit {architecture} .*it fits resnet8; set `architecture`"
    ):
        load(file.with_suffix(".safetensors"), architecture)


def test_assumed_preprocessing_is_warned_of_and_can_be_given(
    small: CifarResNet, file: Path
) -> None:
    torch.save(small.state_dict(), file)
    with pytest.warns(
        ClassifierWarning,
        match=r"does not say what it reads: .*ImageNet's mean and std, are assumed",
    ):
        load(file)
    with pytest.warns(ClassifierWarning, match="images of 48 x 48 pixels"):
        load(file, reads=Reads(input_px=48))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*are assumed")
        byte = load(
            file,
            reads=Reads(mean=(123.0, 117.0, 104.0), std=(58.0,), pixel_max=255.0, channels="bgr"),
        )
        own = load(file, preprocess=Preprocess.squash(24))
    expected = Preprocess(
        crop=32,
        resize=(32, 32),
        mean=(123 / 255, 117 / 255, 104 / 255),
        std=58 / 255,
        channels="bgr",
    )
    assert byte.preprocess == expected
    assert own.preprocess.crop == (24, 24)
    saved = file.with_name("saved")
    save_classifier(saved, small, architecture="resnet8", labels=LABELS, preprocess=expected)
    assert load_classifier(saved, device="cpu").preprocess == expected
    assert json.loads((saved / "config.json").read_text())["preprocess"]["channels"] == "bgr"


@pytest.mark.parametrize(
    ("values", "wording"),
    [
        ({"mean": (0.5, 0.5)}, "mean is 0.5 0.5, expected one finite number or three"),
        ({"std": (float("nan"),)}, "std is nan, expected one finite number or three"),
        ({"pixel_max": 255.0}, "pixel_max is 255 without mean and std"),
        ({"pixel_max": -1.0, "mean": (0.0,), "std": (1.0,)}, "expected a number above 0"),
        ({"channels": "gbr"}, "expected one of 'rgb', 'bgr'|channels is 'gbr'"),
        ({"input_px": 0}, "input_px is 0, expected at least 1"),
    ],
)
def test_impossible_reads_are_refused(values: dict, wording: str) -> None:
    with pytest.raises(ConfigError, match=wording):
        Reads(**values)


@pytest.mark.parametrize("mean", [0.5, [0.5], np.array([0.5]), torch.tensor(0.5)])
def test_reads_take_a_number_a_list_an_array_or_a_tensor(mean: object) -> None:
    assert Reads(mean=mean, std=(0.5,)) == Reads(mean=(0.5,), std=(0.5,))


def test_means_of_bytes_are_refused_where_their_unit_is_not_said(
    small: CifarResNet, file: Path
) -> None:
    torch.save(small.state_dict(), file)
    with pytest.raises(ConfigError, match=r"these are of pixels up to 255\. Divide both by 255"):
        load(file, reads=Reads(mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4)))
