"""Tensors in a safetensors file with the engine's own metadata, and a checksum of both."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from engine.networks.digest import digest_of

CHECKSUM = "sha256"
METADATA = "ddis"
"""The one key of a file's metadata: safetensors writes several in random order, and equal tables make equal files."""


def sealed(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> bytes:
    """A safetensors file of tensors and the engine's metadata, with a checksum of both."""
    text = json.dumps(metadata, sort_keys=True)
    metadata = {**json.loads(text), CHECKSUM: digest_of(tensors, text)}
    return save(dict(tensors), metadata={METADATA: json.dumps(metadata, sort_keys=True)})


def unsealed(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], bool]:
    """A file's tensors, the engine's metadata or {}, and whether both are as they were written.

    A file without a checksum, of an old version, counts as intact. Raises OSError, SafetensorError or ValueError where
    it is no such file.
    """
    metadata = metadata_of(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in list(file.keys())}
    kept = metadata.pop(CHECKSUM, None)
    intact = kept is None or kept == digest_of(tensors, json.dumps(metadata, sort_keys=True))
    return tensors, metadata, intact


def metadata_of(path: Path) -> dict[str, Any]:
    """The engine's metadata of a file, or {} where it has none, without its tensors. Raises as `unsealed`."""
    with safe_open(path, framework="pt") as file:
        found = json.loads((file.metadata() or {}).get(METADATA, "{}"))
    if not isinstance(found, dict):
        raise ValueError(f"its metadata is {str(found)[:40]!r} and no object")
    return found
