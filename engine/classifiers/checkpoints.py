"""Weights from files that nobody vouches for: tensors are read, code is never run."""

import pickle
import struct
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.classifiers.architectures import ARCHITECTURES, STEM, StateDict
from engine.classifiers.file_kinds import check_file_kind
from engine.classifiers.narrow import narrow
from engine.classifiers.preprocess import Preprocess
from engine.classifiers.weight_sets import chosen_set
from engine.errors import ConfigError, ModelError, brief

BROKEN = (
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    struct.error,
    SafetensorError,
)
"""What torch's and safetensors' readers raise at files that are cut, scrambled or of another format."""
DEEPEST = 6
"""How deep tensors may lie in a checkpoint's dictionaries."""


def load_architecture(
    path: Path, architecture: str | None, weights_of: str | None = None
) -> tuple[nn.Module, Preprocess]:
    """The network of that name with the weights of a checkpoint file, and what it reads by default.

    weights_of: which set of weights, where the file holds several; see `chosen_set`.
    """
    _check_there(path)
    if architecture is None or architecture not in ARCHITECTURES:
        read_weights(path)  # what is no checkpoint has another remedy
        given = "no architecture" if architecture is None else f"architecture {architecture!r}"
        raise ConfigError(
            f"checkpoint {path} came with {given}, expected one of {', '.join(ARCHITECTURES)}: a file of "
            "weights does not say what network it belongs to. Set `architecture`; any other network has to be built "
            "in Python and handed over, or exported to ONNX."
        )
    weights: Mapping[str, Tensor] = chosen_set(path, read_weights(path), weights_of)
    known = ARCHITECTURES[architecture]
    try:
        network, weights = known.build(weights)
        pruned = narrow(network, weights)
        network.load_state_dict(weights)
        if pruned:  # whether its widths fit each other, only a run tells
            with torch.no_grad():
                network.eval()(torch.zeros(1, 3, *known.preprocess.crop))
    except (KeyError, RuntimeError, ModelError) as error:
        fitting = [name for name in ARCHITECTURES if name != architecture and _fits(name, weights)]
        if isinstance(error, ModelError) and (not fitting or fitting[0] in str(error)):
            raise ModelError(f"checkpoint {path} does not fit {architecture}: {error}") from error
        advice = (
            f"it fits {' and '.join(fitting)}; set `architecture` to that"
            if fitting
            else f"choose the right one of {', '.join(ARCHITECTURES)}; any other network has to be built in Python "
            "and handed over, or exported to ONNX"
        )
        raise ModelError(
            f"checkpoint {path} does not fit {architecture} ({_misfit(architecture, weights)}), expected that "
            f"network's weights: {advice}."
        ) from error
    return network, known.preprocess


def read_weights(path: Path) -> StateDict:
    """The tensors of a safetensors or torch file by their names, behind those of the dictionaries that they lie in.

    torch files are read with `weights_only=True`: a pickle that would run code raises ModelError.
    """
    content = _read(path)
    tensors = dict(_tensors(content)) if isinstance(content, Mapping) else {}
    if not tensors:
        raise ModelError(
            f"checkpoint {path} holds a {type(content).__name__} that is no state dict, expected names with "
            "tensors, bare or in a dictionary: save the network's `state_dict()`."
        )
    return tensors


def _tensors(
    content: Mapping[Any, Any], prefix: str = "", depth: int = 0
) -> Iterator[tuple[str, Tensor]]:
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping) and depth < DEEPEST:
            yield from _tensors(value, f"{prefix}{key}.", depth + 1)


def _fits(architecture: str, weights: StateDict) -> bool:
    """Whether weights are those of a network, by names and shapes."""
    return not _gaps(architecture, weights)


def _gaps(architecture: str, weights: StateDict) -> list[str]:
    """In words, what is missing, too much, or of another shape than the network of that name has."""
    try:
        with torch.device("meta"):
            network, fitting = ARCHITECTURES[architecture].build(weights)
    except ModelError as error:
        return [str(error)]
    except (KeyError, RuntimeError, ConfigError) as error:
        return [f"it lacks {error.args[0]!r}" if isinstance(error, KeyError) else brief(error)]
    own = network.state_dict()
    lacking = [key for key in own if key not in fitting]
    extra = [key for key in fitting if key not in own]
    other = [key for key in own if key in fitting and own[key].shape != fitting[key].shape]
    gaps = []
    if lacking:
        gaps.append(f"it lacks {len(lacking)} of {len(own)} tensors, {lacking[0]!r} first")
    if extra:
        gaps.append(f"it has {len(extra)} more, {extra[0]!r} first")
    if other:
        shapes = " for ".join(
            "x".join(map(str, found[other[0]].shape)) or "()" for found in (fitting, own)
        )
        gaps.append(f"{len(other)} are of another shape, {other[0]!r} first ({shapes})")
    return gaps


def _misfit(architecture: str, weights: StateDict) -> str:
    heads = ("fc.weight", "linear.weight", "classifier.1.weight")
    if ("conv1.weight" in weights or STEM in weights) and not any(key in weights for key in heads):
        return "it has no last layer that gives class scores: it is a backbone, or its head has another name"
    return "; ".join(_gaps(architecture, weights)) or "its widths do not fit each other"


def _check_there(path: Path) -> None:
    if not path.is_file():
        where = "" if path.is_absolute() else f" in {Path.cwd()}, where relative paths begin"
        raise ModelError(
            f"there is no checkpoint file {path}{where}; expected a .safetensors, .pt, .pth or .ckpt file: check the "
            "path."
        )


def _is_safetensors(path: Path) -> bool:
    """Whether a file holds safetensors: by how it begins, and by its ending where that does not tell."""
    with path.open("rb") as file:
        begins = file.read(9)
    if begins[8:] == b"{":  # after the header's length
        return True
    return path.suffix == ".safetensors" and not begins.startswith((b"PK", b"\x80"))


def _read(path: Path) -> Any:
    _check_there(path)
    check_file_kind(path)
    try:
        if _is_safetensors(path):
            return load_file(path)
        # Opened here: of a path, torch goes by the ending.
        with warnings.catch_warnings(), path.open("rb") as file:
            # torch's own word on old pickles, in addition to the error below
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"checkpoint {path} is damaged or holds code and was not executed ({brief(error)}), expected "
            "tensors only: where you trust it, save its `state_dict()` again with torch.save or as "
            "safetensors."
        ) from error
    except BROKEN as error:
        raise ModelError(
            f"checkpoint {path} cannot be read ({brief(error)}), expected a safetensors file or one of "
            "torch.save: it may be cut short; fetch it again."
        ) from error
