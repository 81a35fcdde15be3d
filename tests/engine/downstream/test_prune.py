"""A pruned network is smaller, keeps the filters of largest L1 norm, and loads again at its own widths."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from engine import Comparison, Distillation, Pruning, load_classifier, prune
from engine.apps.cli import main
from engine.classifiers import Preprocess, save_classifier
from engine.classifiers.architectures import architecture_of
from engine.classifiers.checkpoints import load_architecture
from engine.classifiers.narrow import narrow
from engine.classifiers.untrained import untrained
from engine.downstream.prune import pruned_copy
from engine.errors import ConfigError, MissingExtraError, ModelError

library = pytest.importorskip("torch_pruning")


def test_the_filters_of_least_l1_norm_go(teacher) -> None:
    pruned = pruned_copy(library, teacher.network, teacher.preprocess, 0.5)
    before, after = teacher.network.layer3[0], pruned.layer3[0]
    kept = before.conv1.weight.abs().sum((1, 2, 3)).topk(6).indices.sort().values
    width_in = after.conv1.weight.shape[1]
    assert width_in == before.conv1.weight.shape[1]  # what the shortcut is added to is whole
    assert after.conv1.weight.equal(before.conv1.weight[kept])
    assert after.bn1.running_var.equal(before.bn1.running_var[kept])
    assert after.conv2.weight.equal(before.conv2.weight[:, kept])
    assert pruned.linear.weight.equal(teacher.network.linear.weight)
    assert pruned.conv1.weight.equal(teacher.network.conv1.weight)


def test_a_pruned_network_is_smaller_and_loads_again(tmp_path: Path, teacher, make_set) -> None:
    report = prune(
        make_set(tmp_path / "ours", 4),
        teacher,
        out=tmp_path / "out",
        pruning=Pruning(ratio=0.5),
        distillation=Distillation(epochs=2, batch=8),
        comparison=Comparison(seeds=1),
    )
    inner = 8 * 8 * 9 * 2 + 8 * 8 * 9 + 8 * 8 * 9 + 8 * 12 * 9 + 12 * 12 * 9 + 2 * (8 + 8 + 12)
    assert report["teacher"]["parameters"] - report["network"]["parameters"] == inner / 2
    assert (
        report["network"]["flops_kept"] == report["network"]["flops"] / report["teacher"]["flops"]
    )
    assert 0.4 < report["network"]["flops_kept"] < 0.7
    loaded = load_classifier(tmp_path / "out/folder/seed-0", device="cpu")
    assert (
        sum(value.numel() for value in loaded.network.parameters())
        == report["network"]["parameters"]
    )
    assert loaded.network.layer1[0].conv1.out_channels == 4
    assert len(report["rows"]["folder"]["agreement"]["values"]) == 1


def test_a_network_with_convolved_shortcuts_is_pruned_too(tmp_path: Path) -> None:
    """transformers' ResNet: its output is no tensor, and its shortcuts are layers."""
    network = untrained("resnet18", 3).eval()
    pruned = pruned_copy(library, network, Preprocess.squash(32), 0.7)
    assert {layer.out_channels for layer in pruned.modules() if isinstance(layer, nn.Conv2d)} == {
        64,
        128,
        256,
        512,
        19,
        38,
        76,
        153,
    }
    save_classifier(
        tmp_path,
        pruned,
        architecture="resnet18",
        labels=["a", "b", "c"],
        preprocess=Preprocess.squash(32),
    )
    loaded = load_classifier(tmp_path, device="cpu")
    images = torch.rand(2, 3, 32, 32)
    expected = pruned(Preprocess.squash(32)(images)).logits
    assert (
        loaded.logits(images) - expected
    ).abs().max() < 0.02 * expected.abs().max()  # kept in half precision


def test_narrowing_fits_any_module(teacher) -> None:
    pruned = pruned_copy(library, teacher.network, teacher.preprocess, 0.5)
    built = untrained("resnet8", 3)
    built_again = type(teacher.network)(8, (8, 8, 12), 3)
    assert not narrow(built_again, teacher.network.state_dict())
    assert narrow(built_again, pruned.state_dict())
    built_again.load_state_dict(pruned.state_dict())
    images = torch.rand(2, 3, 12, 12)
    torch.testing.assert_close(built_again.eval()(images), pruned(images))
    assert not narrow(
        built, {"conv1.weight": torch.zeros(99, 3, 3, 3)}
    )  # wider: left to load_state_dict


def test_widths_that_do_not_fit_each_other_are_refused(tmp_path: Path, teacher) -> None:
    weights = teacher.network.state_dict()
    weights["layer1.0.conv1.weight"] = weights["layer1.0.conv1.weight"][:3]
    torch.save(weights, tmp_path / "net.pt")
    with pytest.raises(ModelError, match="does not fit resnet8"):
        load_architecture(tmp_path / "net.pt", "resnet8")


def test_an_architecture_is_known_by_what_it_computes(teacher) -> None:
    assert architecture_of(teacher.network) == "resnet8"
    assert architecture_of(untrained("resnet18", 5).eval()) == "resnet18"
    assert architecture_of(nn.Conv2d(3, 4, 3)) is None

    class Other(type(teacher.network)):
        def forward(self, x):
            return -super().forward(x)

    other = Other(8, (8, 8, 12), 3).eval()
    assert architecture_of(other) is None


def test_what_cannot_be_pruned_is_told(
    tmp_path: Path, teacher, make_set, monkeypatch, capsys
) -> None:
    with pytest.raises(
        ConfigError, match=r"ratio 0.9 leaves nothing of the 8 channels of layer1.0.conv1"
    ):
        pruned_copy(library, teacher.network, teacher.preprocess, 0.9)
    lone = nn.Sequential(nn.Conv2d(3, 3, 12), nn.Flatten())
    with pytest.raises(ModelError, match="no layer of Sequential can be pruned"):
        pruned_copy(library, lone, teacher.preprocess, 0.5)
    assert main(["prune", str(tmp_path), "--classifier", "x", "--out", "o", "--ratio", "70"]) == 2
    assert "--ratio is 70.0, expected a fraction" in capsys.readouterr().err
    folder = make_set(tmp_path / "ours", 3)
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(
        MissingExtraError, match=r"torch-pruning is not installed .*'ddis\[downstream\]'"
    ):
        prune(folder, teacher, out=tmp_path / "out")
