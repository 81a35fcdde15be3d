"""ONNX files as classifiers: a network written node by node, and everything that can be wrong with one."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from engine.classifiers import Preprocess, load_classifier
from engine.classifiers.base import statistics_of
from engine.classifiers.statistics.energy import energy
from engine.errors import MissingExtraError, ModelError
from engine.evaluation.export_statistics import export_statistics
from engine.guidance.objective import Objective
from engine.settings import Alignment

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
    with pytest.raises(ModelError, match=r"no BatchNorm layers.*folded .*own-classifier\.md"):
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
    assert "reads images of 8 x w pixels, expected a square of a stated size" in refused(
        written(network, path, size=(8, "w"))
    )
    assert "reads images of 8 x 6 pixels" in refused(written(network, path, size=(8, 6)))


def test_weights_that_are_inputs_are_told_from_other_inputs(network, tmp_path):
    path = written(network, tmp_path / "net.onnx", without=["w"])
    model = onnx.load(path)
    weight = onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4, 3, 3, 3])
    model.graph.input.append(weight)
    path.write_bytes(model.SerializeToString())
    assert (
        "reads 1 tensors besides its images (first: (4, 3, 3, 3)), expected the weights inside"
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
        match=r"given images of 16 x 16 pixels, expected 8 x 8, its own input size: leave",
    ):
        load_classifier(
            f"onnx:{path}", labels=LABELS, preprocess=Preprocess.squash(16), device="cpu"
        )


def changed(network, path, change, **how):
    """The written file with something done to its model."""
    written(network, path, **how)
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def constant(model, name, values):
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(values), name))


def node(model, kind):
    return next(one for one in model.graph.node if one.op_type == kind)


def _reshape_of_one(model, shape=(1, 4)):
    constant(model, "shape", list(shape))
    node(model, "Flatten").op_type = "Reshape"
    flatten = node(model, "Reshape")
    del flatten.attribute[:]
    flatten.input.append("shape")


def _reshape_by_a_constant_node(model):
    _reshape_of_one(model)
    tensor = onnx.numpy_helper.from_array(np.array([1, -1]), "v")
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["made"], value=tensor))
    node(model, "Reshape").input[1] = "made"


def _statistics_made_of_a_shape(model):
    """As the files of the package onnx have them."""
    constant(model, "size", [4])
    value = onnx.numpy_helper.from_array(np.array([0.5], np.float32), "v")
    made = onnx.helper.make_node("ConstantOfShape", ["size"], ["made"], value=value)
    model.graph.node.insert(0, made)
    node(model, "BatchNormalization").input[4] = "made"


def _statistics_squeezed(model):
    """As exporters of frameworks have them whose BatchNorm keeps (1, C, 1, 1)."""
    kept = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    constant(model, "mean4", kept["mean"].reshape(1, 4, 1, 1))
    constant(model, "axes", [0, 2, 3])
    model.graph.node.insert(0, onnx.helper.make_node("Squeeze", ["mean4", "axes"], ["squeezed"]))
    node(model, "BatchNormalization").input[3] = "squeezed"


def _scores_as_maps(model):
    constant(model, "apart", [2, 3])
    model.graph.node.append(onnx.helper.make_node("Unsqueeze", ["flat", "apart"], ["scores"]))
    node(model, "Gemm").output[0] = "flat"


def _softmax_behind(model):
    model.graph.node.append(onnx.helper.make_node("Softmax", ["flat"], ["scores"], axis=1))
    node(model, "Gemm").output[0] = "flat"


def _label_before(model):
    """As converters of pipelines have it: the class first, then the scores."""
    model.graph.node.append(
        onnx.helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0)
    )
    kept = list(model.graph.output)
    del model.graph.output[:]
    label = onnx.helper.make_tensor_value_info("label", onnx.TensorProto.INT64, ["n"])
    model.graph.output.extend([label, *kept])


def _channels_last(model):
    """As tf2onnx writes it."""
    swap = onnx.helper.make_node("Transpose", ["nhwc"], ["image"], perm=[0, 3, 1, 2])
    model.graph.node.insert(0, swap)
    del model.graph.input[:]
    read = onnx.helper.make_tensor_value_info("nhwc", onnx.TensorProto.FLOAT, ["n", 8, 8, 3])
    model.graph.input.append(read)


@pytest.mark.parametrize(
    ("change", "how"),
    [
        (_reshape_of_one, {"batch": 1}),
        (_reshape_by_a_constant_node, {"batch": 1}),
        (lambda model: _reshape_of_one(model, (6, -1)), {"batch": 6}),
        (_statistics_squeezed, {}),
        (_scores_as_maps, {}),
        (_softmax_behind, {}),
        (_label_before, {}),
        (_channels_last, {}),
        (lambda model: None, {"size": ("h", "w")}),
    ],
    ids=["one", "constant-node", "six", "squeezed", "maps", "softmax", "label", "nhwc", "any-size"],
)
@pytest.mark.filterwarnings("ignore::engine.errors.ClassifierWarning")
def test_what_real_exporters_write_gives_the_network_s_own_scores(network, tmp_path, change, how):
    path = changed(network, tmp_path / "net.onnx", change, **how)
    classifier = load_classifier(f"onnx:{path}", labels=LABELS, device="cpu")
    images = torch.rand(3, 3, 8, 8)
    expected = network(classifier.preprocess(images))
    torch.testing.assert_close(classifier.logits(images), expected, atol=1e-5, rtol=1e-4)
    assert classifier.preprocess.crop == ((224, 224) if how.get("size") else (8, 8))
    assert len(classifier.statistics.stored) == 1


def test_statistics_that_are_computed_from_constants_are_stored_ones(network, tmp_path):
    path = changed(network, tmp_path / "net.onnx", _statistics_made_of_a_shape)
    known = load_classifier(f"onnx:{path}", labels=LABELS, device="cpu").statistics
    assert torch.equal(known.stored[0].var, torch.full((4,), 0.5))


def _batch_as_channels(model):
    """Values of one image go into the next one's row."""
    constant(model, "mixed", [-1, 1])
    constant(model, "back", [1, 4])
    model.graph.node.insert(5, onnx.helper.make_node("Reshape", ["f", "mixed"], ["m"]))
    model.graph.node.insert(6, onnx.helper.make_node("Transpose", ["m"], ["t"], perm=[1, 0]))
    model.graph.node.insert(7, onnx.helper.make_node("Reshape", ["t", "pairs"], ["r"]))
    constant(model, "pairs", [4, -1])
    model.graph.node.insert(8, onnx.helper.make_node("Transpose", ["r"], ["u"], perm=[1, 0]))
    node(model, "Gemm").input[0] = "u"


def test_a_file_that_mixes_its_images_is_refused(network, tmp_path):
    path = changed(network, tmp_path / "net.onnx", _batch_as_channels, batch=1)
    assert "mixes images of one batch" in refused(path)


def test_a_file_in_training_mode_is_refused(network, tmp_path):
    def trains(model):
        node(model, "BatchNormalization").attribute.append(
            onnx.helper.make_attribute("training_mode", 1)
        )

    path = changed(network, tmp_path / "net.onnx", trains)
    assert "1 of 1 BatchNormalization nodes" in refused(path)


def test_a_file_of_grey_images_gets_the_brightness(network, tmp_path):
    def grey(model):
        kept = {one.name: one for one in model.graph.initializer}
        weight = onnx.numpy_helper.to_array(kept["w"]).sum(1, keepdims=True)
        kept["w"].CopyFrom(onnx.numpy_helper.from_array(weight, "w"))
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1

    path = changed(network, tmp_path / "net.onnx", grey)
    classifier = load_classifier(
        f"onnx:{path}", labels=LABELS, preprocess=Preprocess.squash(8, 0.5, 0.5), device="cpu"
    )
    shades = torch.rand(2, 1, 8, 8).expand(-1, 3, -1, -1)
    expected = network(classifier.preprocess(shades))
    torch.testing.assert_close(classifier.logits(shades), expected, atol=1e-5, rtol=1e-4)


LIGHT = [
    "resnet50",
    "shufflenet",
    "inception_v2",
    "densenet121",
    "squeezenet",
    "inception_v1",
    "zfnet512",
    "vgg19",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", LIGHT)
@pytest.mark.filterwarnings("ignore::engine.errors.ClassifierWarning")
def test_the_models_of_the_package_onnx_load_and_guide(name):
    """Of Caffe2's exporter, with weights that are made of their shapes."""
    file = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"
    if not file.is_file():
        pytest.skip("this version of onnx comes without its light models")
    classifier = load_classifier(f"onnx:{file}", labels=["imagenet"], device="cpu")
    if name == "resnet50":  # the made-up weights let its activations overflow
        assert "squares overflow" in classifier.statistics.found
    norms = {"shufflenet": 49, "inception_v2": 69, "densenet121": 121}.get(name, 0)
    assert len(getattr(classifier.statistics, "taps", ())) == norms
    if name == "resnet50":
        pytest.skip("loads, and its overflow is said: nothing can be guided by it")
    classes = torch.zeros(1, dtype=torch.long)
    if not norms:
        with pytest.raises(ModelError, match=r"has no BatchNorm layers.* set it to 'energy'"):
            Objective(classifier, Alignment())
        classifier = replace(classifier, statistics=energy(classifier))
    images = torch.rand(1, 3, 224, 224)
    value, gradient = Objective(classifier, Alignment()).value_and_grad(images, classes)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    assert gradient.any()


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
    """Through statistics files: of the ONNX file, and of the network that it was exported from."""
    network = build()
    path = exported(network, tmp_path / "net.onnx")
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(20):
        pixels = torch.randint(256, (16, 16, 3), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(folder / f"{number}.png")
    images = torch.rand(5, 3, 16, 16)
    gradients = []
    for source in (f"onnx:{path}", network):
        given = {"labels": LABELS, "preprocess": Preprocess.squash(16), "device": "cpu"}
        file = tmp_path / f"{len(gradients)}.safetensors"
        measured = export_statistics(
            load_classifier(source, statistics="none", **given), folder, file
        )
        if source is not network:
            found = {one["layer"]: one["channels"] for one in measured["layers"]}
            assert found == places
        one = load_classifier(source, statistics=str(file), **given)
        settings = Alignment(class_weight=0, layers="channels")
        gradients.append(Objective(one, settings).value_and_grad(images)[1])
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5 * float(gradients[1].abs().max()))
    assert gradients[0].abs().max() > 0
