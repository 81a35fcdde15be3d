"""ONNX files as classifiers: a network written node by node, and everything that can be wrong with one."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from engine.classifiers import Preprocess, load_classifier
from engine.classifiers.base import statistics_of
from engine.classifiers.statistics import Statistics
from engine.errors import MissingExtraError, ModelError
from engine.guidance.moments import recording_moments

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnx2fx")
LABELS = ["dog", "horse", "guitar"]


@pytest.fixture
def network() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    ).train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(8, 3, 8, 8) + 1)
    return net.eval()


def written(
    network,
    path,
    *,
    without=(),
    size=(8, 8),
    norm="BatchNormalization",
    activation="Relu",
    batch="n",
):
    """The network as an ONNX file, with the faults that are asked for."""
    helper, to_tensor = onnx.helper, onnx.numpy_helper.from_array
    conv, bn, linear = network[0], network[1], network[5]
    values = {
        "w": conv.weight,
        "b": conv.bias,
        "scale": bn.weight,
        "shift": bn.bias,
        "mean": bn.running_mean,
        "var": bn.running_var,
        "matrix": linear.weight,
        "offset": linear.bias,
    }
    arrays = {name: to_tensor(np.asarray(value.detach()), name) for name, value in values.items()}
    nodes = [
        helper.make_node(
            "Conv", ["image", "w", "b"], ["x"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]
        ),
        helper.make_node(norm, ["x", "scale", "shift", "mean", "var"], ["y"], epsilon=bn.eps)
        if norm == "BatchNormalization"
        else helper.make_node(norm, ["x"], ["y"]),
        helper.make_node(activation, ["y"], ["a"], domain="" if activation == "Relu" else "vendor"),
        helper.make_node("GlobalAveragePool", ["a"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "matrix", "offset"], ["scores"], transB=1),
    ]
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [batch, 3, *size])
    scores = helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, [batch, 3])
    kept = [array for name, array in arrays.items() if name not in without]
    graph = helper.make_graph(nodes, "net", [image], [scores], kept)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("vendor", 1)]
    )
    path.write_bytes(model.SerializeToString())
    return path


def refused(path) -> str:
    with pytest.raises(ModelError) as caught:
        load_classifier(f"onnx:{path}", labels=LABELS, device="cpu")
    return str(caught.value)


def test_a_file_is_a_classifier_like_any_other(network, tmp_path):
    classifier = load_classifier(
        f"onnx:{written(network, tmp_path / 'net.onnx')}", labels=LABELS, device="cpu"
    )
    images = torch.rand(5, 3, 8, 8)
    torch.testing.assert_close(
        classifier.logits(images), network(classifier.preprocess(images)), rtol=0, atol=1e-5
    )
    assert classifier.input_px == 8
    (stored,) = classifier.statistics.stored
    torch.testing.assert_close(stored.mean, network[1].running_mean)
    torch.testing.assert_close(stored.var, network[1].running_var)


def test_guidance_fuses_its_layers(network, tmp_path):
    from engine.guidance.objective import Objective
    from engine.settings import Alignment

    classifier = load_classifier(
        f"onnx:{written(network, tmp_path / 'net.onnx')}", labels=LABELS, device="cpu"
    )
    images, classes = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    found, wanted = (
        Objective(classifier, Alignment(), fused=fused).value_and_grad(images, classes)[1]
        for fused in (True, False)
    )
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    assert found.abs().max() > 0


def test_a_file_with_folded_norms_loads_and_says_how_to_keep_them(network, tmp_path):
    path = written(network, tmp_path / "net.onnx", norm="Identity")
    classifier = load_classifier(f"onnx:{path}", labels=LABELS, device="cpu")
    assert classifier.logits(torch.rand(2, 3, 8, 8)).shape == (2, 3)
    with pytest.raises(ModelError, match=r"has no BatchNorm layers.*optimize=False"):
        statistics_of(classifier, "guidance", "leave it")


def test_each_mistake_has_its_own_words(network, tmp_path):
    path = tmp_path / "net.onnx"
    assert "there is no ONNX file" in refused(path)
    path.write_bytes(b"\x80not onnx at all")
    assert "is not an ONNX file" in refused(path)
    assert "lacks 1 initializers that its nodes read (first: 'mean')" in refused(
        written(network, path, without=["mean"])
    )
    assert "has the operator Fancy (domain 'vendor')" in refused(
        written(network, path, activation="Fancy")
    )
    assert "reads images of h x w pixels, expected a square of a stated size" in refused(
        written(network, path, size=("h", "w"))
    )
    assert "reads images of 8 x 6 pixels" in refused(written(network, path, size=(8, 6)))


def test_weights_that_are_inputs_are_told_from_other_inputs(network, tmp_path):
    path = written(network, tmp_path / "net.onnx", without=["w"])
    model = onnx.load(path)
    weight = onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4, 3, 3, 3])
    model.graph.input.append(weight)
    path.write_bytes(model.SerializeToString())
    assert (
        "reads 1 tensors beside its images (first: (4, 3, 3, 3)), expected the weights inside"
        in refused(path)
    )


def test_equal_tensors_that_share_one_are_constants(network, tmp_path):
    """Exporters write the scale and the variance of a fresh BatchNorm, all ones, once, and an Identity beside it."""
    path = written(network, tmp_path / "net.onnx", without=["var"])
    model = onnx.load(path)
    model.graph.node.insert(0, onnx.helper.make_node("Identity", ["scale"], ["var"]))
    path.write_bytes(model.SerializeToString())
    classifier = load_classifier(f"onnx:{path}", labels=LABELS, device="cpu")
    torch.testing.assert_close(classifier.statistics.stored[0].var, network[1].weight.detach())


def test_another_input_size_than_the_files_is_refused(network, tmp_path):
    path = written(network, tmp_path / "net.onnx")
    with pytest.raises(
        ModelError,
        match=r"given images of 16 x 16 pixels, expected 8 x 8, its own input size: pass",
    ):
        load_classifier(
            f"onnx:{path}", labels=LABELS, preprocess=Preprocess.squash(16), device="cpu"
        )


def test_a_fixed_batch_is_refused(network, tmp_path):
    path = written(network, tmp_path / "net.onnx")
    model = onnx.load(path)
    shape = onnx.numpy_helper.from_array(np.array([1, 4]), "shape")
    model.graph.initializer.append(shape)
    flatten = next(node for node in model.graph.node if node.op_type == "Flatten")
    flatten.op_type = "Reshape"
    flatten.input.append("shape")
    path.write_bytes(model.SerializeToString())
    assert "does not run on two images of 8 x 8 pixels" in refused(path)


def test_weights_in_a_file_that_is_not_there(network, tmp_path):
    path = written(network, tmp_path / "net.onnx")
    onnx.save_model(
        onnx.load(path),
        str(path),
        save_as_external_data=True,
        location="net.data",
        size_threshold=0,
    )
    (tmp_path / "net.data").unlink()
    assert "lie in another file that cannot be read" in refused(path)


def test_without_the_extra_it_is_named(network, tmp_path, monkeypatch):
    path = written(network, tmp_path / "net.onnx")
    monkeypatch.setitem(sys.modules, "onnx2fx", None)
    with pytest.raises(
        MissingExtraError, match=r"onnx2fx is not installed .*pip install 'ddis\[onnx\]'"
    ):
        load_classifier(f"onnx:{path}", labels=LABELS, device="cpu")


def exported(network: nn.Module, path, opset: int = 18):
    """A network of 16 px images as torch writes it, with a batch of any size."""
    pytest.importorskip("onnxscript")
    torch.onnx.export(
        network.eval(),
        (torch.randn(2, 3, 16, 16),),
        str(path),
        input_names=["image"],
        dynamic_shapes={"x": {0: torch.export.Dim("n", min=1, max=64)}},
        opset_version=opset,
        dynamo=True,
        verbose=False,
    )
    return path


class Transformer(nn.Module):
    """A block of attention between two normalisations, by hand: tokens (N, 16, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.before, self.after = (
            nn.Conv2d(3, 8, 4, 4),
            nn.LayerNorm(8),
            nn.LayerNorm(8),
        )
        self.qkv, self.proj, self.head = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.before(tokens)).chunk(3, 2)
        mixed = (q @ k.transpose(1, 2)).softmax(2) @ v
        return self.head(self.after(tokens + self.proj(mixed)).mean(1))


class Convolutional(nn.Module):
    """What is left of a network whose BatchNorm was folded."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(x).relu()).relu().mean((2, 3)))


@pytest.mark.parametrize(
    ("build", "places"),
    [
        (Transformer, {"graph.layernormalization_0": 8, "graph.layernormalization_1": 8}),
        (Convolutional, {"graph.conv_0": 4, "graph.conv_1": 5}),
    ],
)
def test_files_without_batch_norm_are_measured_and_guided_like_their_networks(
    build, places: dict[str, int], tmp_path
) -> None:
    from engine.evaluation.layer_moments import chosen_calls
    from engine.guidance.objective import Objective
    from engine.settings import Alignment

    network = build()
    path = exported(network, tmp_path / "net.onnx")
    reads = Preprocess.squash(16)
    images, goal = torch.rand(5, 3, 16, 16), torch.rand(20, 3, 16, 16)
    gradients = []
    for source in (f"onnx:{path}", network):
        one = load_classifier(
            source, labels=LABELS, preprocess=reads, device="cpu", statistics="none"
        )
        calls = chosen_calls(one, None)
        if source is not network:
            assert {call.path: call.channels for call in calls} == places
        taps = tuple(call.tap(one.network) for call in calls)
        with torch.no_grad(), recording_moments(taps) as taken:
            one.logits(goal)
            known = Statistics(source="file:x", taps=taps, stored=tuple(taken))
        settings = Alignment(class_weight=0, layers="channels")
        gradients.append(
            Objective(replace(one, statistics=known), settings).value_and_grad(images)[1]
        )
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5 * float(gradients[1].abs().max()))
    assert gradients[0].abs().max() > 0
