"""Weights from files that nobody vouches for: tensors are read, code is never run."""

import pickle
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.classifiers.architectures import ARCHITECTURES, StateDict
from engine.classifiers.narrow import narrow
from engine.classifiers.preprocess import Preprocess
from engine.errors import ConfigError, ModelError, brief

WRAPPERS = ("state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")
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


def load_architecture(path: Path, architecture: str | None) -> tuple[nn.Module, Preprocess]:
    """The network of that name with the weights of a checkpoint file, and what it reads by default."""
    _check_there(path)
    if architecture is None or architecture not in ARCHITECTURES:
        given = "no architecture" if architecture is None else f"architecture {architecture!r}"
        raise ConfigError(
            f"checkpoint {path} came with {given}, expected one of {', '.join(ARCHITECTURES)}: a file of "
            "weights does not say what network it belongs to. For any other, build it in Python and pass "
            "the nn.Module."
        )
    weights = read_weights(path)
    try:
        preprocess = ARCHITECTURES[architecture].preprocess
        network, weights = ARCHITECTURES[architecture].build(weights)
        pruned = narrow(network, weights)
        network.load_state_dict(weights)
        if pruned:  # whether its widths fit each other, only a run tells
            with torch.no_grad():
                network.eval()(torch.zeros(1, 3, *preprocess.crop))
    except (KeyError, RuntimeError) as error:
        raise ModelError(
            f"checkpoint {path} does not fit {architecture} ({brief(error)}), expected that network's "
            f"weights: choose the right one of {', '.join(ARCHITECTURES)}."
        ) from error
    return network, preprocess


def read_weights(path: Path) -> StateDict:
    """The tensors of a safetensors or torch file, unwrapped from `state_dict` or `model`, without wrappers' prefixes.

    torch files are read with `weights_only=True`: a pickle that would run code raises ModelError.
    """
    content = _read(path)
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(v, Tensor) for v in content.values())
    ):
        raise ModelError(
            f"checkpoint {path} holds a {type(content).__name__} that is no state dict, expected names with "
            f"tensors, bare or under {' or '.join(map(repr, WRAPPERS))}: save `model.state_dict()`."
        )
    return {_bare(key): value for key, value in content.items()}


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise ModelError(
            f"there is no checkpoint file {path}, expected a .safetensors, .pt or .th file: check the path."
        )


def _read(path: Path) -> Any:
    _check_there(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # torch's own word on old pickles, beside the one error below
            return torch.load(path, map_location="cpu", weights_only=True)
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


def _bare(key: str) -> str:
    """A key without the prefixes of DataParallel and torch.compile."""
    stripped = key
    for prefix in PREFIXES:
        stripped = stripped.removeprefix(prefix)
    return stripped if stripped == key else _bare(stripped)
