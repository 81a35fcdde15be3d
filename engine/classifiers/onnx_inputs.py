"""What an ONNX file reads: one batch of images and nothing else, with its weights and statistics inside."""

from pathlib import Path
from typing import Any

from engine.errors import ModelError

NORM = "BatchNormalization"
COLOURS, GREY = 3, 1


def given(graph: Any) -> set[str]:
    return {
        tensor.name
        for tensor in (*graph.initializer, *(s.values for s in graph.sparse_initializer))
    }


def image_of(graph: Any, path: Path) -> Any:
    """The file's only input. Raises ModelError where it has none, or others, such as weights."""
    inputs = [value for value in graph.input if value.name not in given(graph)]
    images = [value for value in inputs if _is_image(value)]
    images.sort(key=lambda value: isinstance(_shape(value)[0], int))  # weights have a first size
    others = [_shape(value) for value in inputs if not images or value is not images[0]]
    if images and others:
        raise ModelError(
            f"{path} reads {len(others)} tensors besides its images (first: {others[0]}), expected the weights inside: "
            "it was exported without parameters, or has other inputs. Export the network alone, with its parameters."
        )
    if not images:
        raise ModelError(
            f"{path} reads {', '.join(map(str, others)) or 'nothing'}, expected one input (N, 3, H, W) of images: "
            "export the network alone, without other inputs."
        )
    return images[0]


def _is_image(value: Any) -> bool:
    """Whether an input can be images: four axes, and channels at the second or the last of them."""
    shape = _shape(value)
    if len(shape) != 4:
        return False
    return shape[1] in (COLOURS, GREY) or shape[3] in (COLOURS, GREY)


def _shape(value: Any) -> tuple[int | str, ...]:
    return tuple(
        axis.dim_value or axis.dim_param or "?" for axis in value.type.tensor_type.shape.dim
    )


def input_size(image: Any, path: Path) -> tuple[int | None, int, bool]:
    """The side of the square that an input is, None for any; its channels; whether they come last."""
    shape = _shape(image)
    last = shape[1] not in (COLOURS, GREY)
    channels = int(shape[3 if last else 1])
    height, width = shape[1:3] if last else shape[2:]
    if not isinstance(height, int) and not isinstance(width, int):
        return None, channels, last
    if not isinstance(height, int) or height != width:
        raise ModelError(
            f"{path} reads images of {height} x {width} pixels, expected a square of a stated size: export it with "
            "the input size that it was trained with, only the batch dynamic."
        )
    return height, channels, last


def check_names(graph: Any, path: Path) -> None:
    """Every value that a node reads must be there. Subgraphs are the converter's own concern."""
    known = {value.name for value in graph.input} | given(graph) | {""}
    known |= {output for node in graph.node for output in node.output}
    missing = list(
        dict.fromkeys(name for node in graph.node for name in node.input if name not in known)
    )
    if missing:
        raise ModelError(
            f"{path} lacks {len(missing)} initializers that its nodes read (first: {missing[0]!r}), expected the "
            "weights inside: it was exported without parameters. Export with export_params=True."
        )


def check_norms(graph: Any, constant: set[str], path: Path) -> None:
    """Every BatchNormalization node must normalise with what the file stored, not with the batch's own moments."""
    norms = [node for node in graph.node if node.op_type == NORM]
    computed = [
        node
        for node in norms
        if not constant.issuperset(node.input[1:5])
        or any(one.name == "training_mode" and one.i for one in node.attribute)
    ]
    if computed:
        raise ModelError(
            f"{len(computed)} of {len(norms)} {NORM} nodes of {path} compute their statistics, expected stored ones: "
            "it was exported in training mode or without running statistics. Export the network in eval mode."
        )
