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
from engine.classifiers.onnx_inputs import (
    GREY,
    NORM,
    check_names,
    check_norms,
    given,
    image_of,
    input_size,
)
from engine.classifiers.onnx_places import add_places
from engine.classifiers.onnx_rewrites import constants_of, free_batch
from engine.classifiers.outputs import GreyInput, scores_of
from engine.classifiers.preprocess import Preprocess
from engine.errors import MissingExtraError, ModelError, brief

LARGE_PX = 224
"""The side of images where a file takes any."""


class OnnxBatchNorm(nn.BatchNorm2d):
    """A BatchNormalization node: normalises (N, C, *) of any rank with what the file stored."""

    def __init__(self, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float) -> None:
        super().__init__(len(scale), eps=eps)
        state = {"weight": scale, "bias": bias, "running_mean": mean, "running_var": var}
        self.load_state_dict({**state, "num_batches_tracked": torch.tensor(0)})

    def _check_input_dim(self, input: Tensor) -> None:
        pass


class OnnxNetwork(nn.Module):
    """Images (N, 3, px, px), preprocessed -> the first output of a converted file, or all where that is no matrix.

    px: None for any size. channels_last: whether the file reads (N, px, px, 3), as those from TensorFlow do.
    """

    def __init__(
        self, graph: fx.GraphModule, px: int | None, path: Path, channels_last: bool = False
    ) -> None:
        super().__init__()
        self.graph, self.px, self.path, self.channels_last = graph, px, path, channels_last

    def forward(self, pixels: Tensor) -> Any:
        if self.px is not None and pixels.shape[2:] != (self.px, self.px):
            raise ModelError(
                f"{self.path} was given images of {pixels.shape[2]} x {pixels.shape[3]} pixels, expected {self.px} x "
                f"{self.px}, its own input size: leave `input_px` out, or export it for the other size."
            )
        output = self.graph(pixels.permute(0, 2, 3, 1) if self.channels_last else pixels)
        if (
            isinstance(output, tuple | list)
            and isinstance(output[0], Tensor)
            and output[0].dim() > 1
        ):
            return output[0]
        return output


def from_onnx(name: str) -> Found:
    """'onnx:<file>': one image input (N, 3, H, W), class scores (N, K) as first output.

    Its preprocessing, which no ONNX file states, is taken to be ImageNet's at the file's own size. Statistics are those
    of its BatchNorm nodes; of a file without, those that `ddis statistics` measures.
    """
    onnx, onnx2fx = _extra("onnx"), _extra("onnx2fx")
    path = Path(name).expanduser()
    model = _read(onnx, path)
    image = image_of(model.graph, path)
    px, channels, last = input_size(image, path)
    check_names(model.graph, path)
    constant = constants_of(model.graph, given(model.graph))
    check_norms(model.graph, constant, path)
    freed = free_batch(onnx, model, constant, image)
    try:
        graph = _with_layers(onnx2fx.convert(model))
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
    network: nn.Module = OnnxNetwork(graph, px, path, channels_last=last)
    if channels == GREY:
        network = GreyInput(network)
    _check_run(network, px or LARGE_PX, path)
    if freed:
        _check_images_apart(network, px or LARGE_PX, path)
    return Found(network, Preprocess.squash(px or LARGE_PX), None, assumed=True)


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
        scale, bias, mean, var = (_constant(module, one).float() for one in constants)
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
    """The tensor of a node: a buffer of the module, or what its call gives."""
    if node.op == "get_attr":
        return module.get_buffer(str(node.target)).detach()
    values = fx.node.map_arg((node.args, node.kwargs), lambda one: _constant(module, one))
    return torch.as_tensor(node.target(*values[0], **values[1]))  # type: ignore[operator]


def _check_run(network: nn.Module, px: int, path: Path) -> None:
    """Two images must pass: an exported batch size of 1, or sizes that do not fit, end here."""
    try:
        with torch.no_grad():
            output = scores_of(network.eval()(torch.zeros(2, 3, px, px)))
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
        raise ModelError(
            f"{path} does not run on two images of {px} x {px} pixels ({brief(error)}), expected a batch of any size "
            "at the size that its input states: export it with a dynamic batch axis and the right input size."
        ) from error
    if len(output) != 2:
        raise ModelError(
            f"{path} gives {len(output)} rows for 2 images, expected one for each: export it with a dynamic batch axis."
        )


def _check_images_apart(network: nn.Module, px: int, path: Path) -> None:
    """Of a file whose batch was freed: an image's scores must not depend on the one before it."""
    images = torch.rand(2, 3, px, px, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together, alone = (scores_of(network(part)) for part in (images, images[1:]))
    if len(together) != 2 or not torch.allclose(together[1:], alone, rtol=1e-3, atol=1e-4):
        raise ModelError(
            f"{path} mixes images of one batch, as it was exported for a fixed number of them, expected scores of each "
            "image alone: export it with a dynamic batch axis."
        )


def _extra(package: str) -> ModuleType:
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingExtraError(
            f"{package} is not installed ({brief(error)}), expected the packages of the extra 'onnx' for an ONNX file: "
            "install them with `pip install 'ddis[onnx]'`."
        ) from error
