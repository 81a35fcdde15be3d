"""Classifiers from ONNX files: converted to torch by onnx2fx, with their BatchNorm nodes as layers again.

onnx2fx is the converter that installs beside any torch: onnx2torch and onnx2pytorch import torchvision at once.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, fx, nn

from engine.classifiers.base import Found
from engine.classifiers.onnx_places import add_places
from engine.classifiers.preprocess import Preprocess
from engine.errors import MissingExtraError, ModelError, brief

NORM = "BatchNormalization"


class OnnxBatchNorm(nn.BatchNorm2d):
    """A BatchNormalization node: normalises (N, C, *) of any rank with what the file stored."""

    def __init__(self, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float) -> None:
        super().__init__(len(scale), eps=eps)
        state = {"weight": scale, "bias": bias, "running_mean": mean, "running_var": var}
        self.load_state_dict({**state, "num_batches_tracked": torch.tensor(0)})

    def _check_input_dim(self, input: Tensor) -> None:
        pass


class OnnxNetwork(nn.Module):
    """Images (N, 3, px, px), preprocessed -> the first output of a converted file."""

    def __init__(self, graph: fx.GraphModule, px: int, path: Path) -> None:
        super().__init__()
        self.graph, self.px, self.path = graph, px, path

    def forward(self, pixels: Tensor) -> Tensor:
        if pixels.shape[2:] != (self.px, self.px):
            raise ModelError(
                f"{self.path} was given images of {pixels.shape[2]} x {pixels.shape[3]} pixels, expected {self.px} x "
                f"{self.px}, its own input size: pass a Preprocess whose crop is that, or export it for the other size."
            )
        output = self.graph(pixels)
        return output[0] if isinstance(output, tuple | list) else output


def from_onnx(name: str) -> Found:
    """'onnx:<file>': one image input (N, 3, H, W), class scores (N, K) as first output.

    Its preprocessing, which no ONNX file states, is taken to be ImageNet's at the file's own size. Statistics are those
    of its BatchNorm nodes; of a file without, those that `ddis statistics` measures.
    """
    onnx, onnx2fx = _extra("onnx"), _extra("onnx2fx")
    path = Path(name).expanduser()
    model = _read(onnx, path)
    px = _input_px(model.graph, path)
    _check_names(model.graph, path)
    _check_norms(model.graph, path)
    try:
        graph = onnx2fx.convert(model)
    except onnx2fx.UnsupportedOpError as error:
        raise ModelError(
            f"{path} has the operator {error.op_type} (domain {error.domain or 'ai.onnx'!r}), which the converter "
            "onnx2fx does not know, expected operators of the ONNX standard: export the network again "
            "without custom or fused operators, or load its checkpoint in Python and pass the nn.Module."
        ) from error
    except (onnx2fx.Onnx2FxError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path} cannot be converted to torch ({brief(error)}), expected a plain image classifier: load its "
            "checkpoint in Python and pass the nn.Module."
        ) from error
    network = OnnxNetwork(_with_layers(graph), px, path)
    _check_run(network, px, path)
    return Found(network, Preprocess.squash(px), None)


def _read(onnx: ModuleType, path: Path) -> Any:
    if not path.is_file():
        raise ModelError(
            f"there is no ONNX file {path}, expected one behind 'onnx:': check the path."
        )
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (
        onnx.onnx_cpp2py_export.checker.ValidationError,
        ValueError,
        OSError,
        _decode_error(),
    ) as error:
        raise _not_onnx(path, brief(error)) from error
    if not model.graph.node or not model.opset_import:
        raise _not_onnx(path, "it holds no graph")
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (onnx.onnx_cpp2py_export.checker.ValidationError, ValueError, OSError) as error:
        raise ModelError(
            f"the weights of {path} lie in another file that cannot be read ({brief(error)}), expected it beside the "
            "ONNX file: copy both, or export with external_data=False."
        ) from error
    return model


def _not_onnx(path: Path, why: str) -> ModelError:
    return ModelError(
        f"{path} is not an ONNX file ({why}), expected a ModelProto as torch.onnx.export writes it: it may be cut "
        "short or of another format; export or fetch it again."
    )


def _decode_error() -> type[Exception]:
    kind: type[Exception] = import_module("google.protobuf.message").DecodeError
    return kind


def _given(graph: Any) -> set[str]:
    return {
        tensor.name
        for tensor in (*graph.initializer, *(s.values for s in graph.sparse_initializer))
    }


def _input_px(graph: Any, path: Path) -> int:
    """The side of the square that the file's only input has; it must say so, as images are resized to it."""
    inputs = [value for value in graph.input if value.name not in _given(graph)]
    shapes = [
        tuple(axis.dim_value or axis.dim_param or "?" for axis in value.type.tensor_type.shape.dim)
        for value in inputs
    ]
    others = [
        shape for shape in shapes if len(shape) != 4 or shape[1] != 3 or isinstance(shape[0], int)
    ]
    if others and len(shapes) - len(others) == 1:
        raise ModelError(
            f"{path} reads {len(others)} tensors beside its images (first: {others[0]}), expected the weights inside: "
            "it was exported without parameters, or has other inputs. Export the network alone, with its parameters."
        )
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] != 3:
        raise ModelError(
            f"{path} reads {', '.join(map(str, shapes)) or 'nothing'}, expected one input (N, 3, H, W) of images: "
            "export the network alone, channels first, without other inputs."
        )
    _, _, height, width = shapes[0]
    if not isinstance(height, int) or height != width:
        raise ModelError(
            f"{path} reads images of {height} x {width} pixels, expected a square of a stated size: export it with "
            "the input size that it was trained with, only the batch dynamic."
        )
    return height


def _check_names(graph: Any, path: Path) -> None:
    """Every value that a node reads must be there. Subgraphs are the converter's own concern."""
    known = {value.name for value in graph.input} | _given(graph) | {""}
    known |= {output for node in graph.node for output in node.output}
    missing = list(
        dict.fromkeys(name for node in graph.node for name in node.input if name not in known)
    )
    if missing:
        raise ModelError(
            f"{path} lacks {len(missing)} initializers that its nodes read (first: {missing[0]!r}), expected the "
            "weights inside: it was exported without parameters. Export with export_params=True."
        )


def _check_norms(graph: Any, path: Path) -> None:
    """Every BatchNormalization node must normalise with what the file stored, not with the batch's own moments."""
    constant = _given(graph) | {node.output[0] for node in graph.node if node.op_type == "Constant"}
    for node in (
        graph.node
    ):  # in the order of the graph; exporters let equal tensors share one, behind an Identity
        if node.op_type == "Identity" and constant.issuperset(node.input):
            constant |= set(node.output)
    norms = [node for node in graph.node if node.op_type == NORM]
    computed = [node for node in norms if not constant.issuperset(node.input[1:5])]
    if computed:
        raise ModelError(
            f"{len(computed)} of {len(norms)} {NORM} nodes of {path} compute their statistics, expected stored ones: "
            "it was exported in training mode or without running statistics. Export the network in eval mode."
        )


def _with_layers(module: fx.GraphModule) -> fx.GraphModule:
    """The network with its BatchNorm calls as layers, which are found, measured and fused like any other's."""
    calls = [
        node
        for node in module.graph.nodes
        if node.op == "call_function"
        and node.meta.get("onnx_op_type") == NORM
        and len(node.args) == 7
    ]
    for number, node in enumerate(calls):
        x, *constants, eps, _ = node.args
        scale, bias, mean, var = (_constant(module, constant) for constant in constants)
        name = f"batch_norm_{number}"
        module.add_module(name, OnnxBatchNorm(scale, bias, mean, var, float(eps)))
        with module.graph.inserting_before(node):
            node.replace_all_uses_with(module.graph.call_module(name, (x,)))
        module.graph.erase_node(node)
    add_places(module)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return module


def _constant(module: fx.GraphModule, node: fx.Node) -> Tensor:
    """The tensor that a node stands for: a buffer of the module, or what its call gives."""
    if node.op == "get_attr":
        return module.get_buffer(str(node.target)).detach().float()
    values = fx.node.map_arg((node.args, node.kwargs), lambda one: _constant(module, one))
    return torch.as_tensor(node.target(*values[0], **values[1])).float()  # type: ignore[operator]


def _check_run(network: nn.Module, px: int, path: Path) -> None:
    """Two images must pass: an exported batch size of 1, or sizes that do not fit, end here."""
    try:
        with torch.no_grad():
            output = network.eval()(torch.zeros(2, 3, px, px))
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
        raise ModelError(
            f"{path} does not run on two images of {px} x {px} pixels ({brief(error)}), expected a batch of any size "
            "at the size that its input states: export it with a dynamic batch axis and the right input size."
        ) from error
    if len(output) != 2:
        raise ModelError(
            f"{path} gives {len(output)} rows for 2 images, expected one for each: export it with a dynamic batch axis."
        )


def _extra(package: str) -> ModuleType:
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingExtraError(
            f"{package} is not installed ({brief(error)}), expected the packages of the extra 'onnx' for an ONNX file: "
            "install them with `pip install 'ddis[onnx]'`."
        ) from error
