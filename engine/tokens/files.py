"""Token tables in files: safetensors, one tensor (D,) per class under the class's placeholder, and JSON metadata."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from engine.classifiers.base import Classifier
from engine.errors import TokenFileError
from engine.files import write_whole
from engine.networks.digest import digest_of
from engine.priors import Prior
from engine.tokens.table import INSTEAD, TEMPLATE, TokenTable, TokenTraining, check_fit

FORMAT = 2
OLD_FORMAT, OLD_ENCODER = 1, "clip"
"""Of version 0.1, which knew one text encoder."""
OLD_NAMES = {"unet_forward": "denoiser_forward", "unet_backward": "denoiser_backward"}
"""Of what learning cost, in files of before priors without a UNet."""
CHECKSUM = "sha256"
METADATA = "ddis"
"""The one key of a file's metadata: safetensors writes several in random order, and equal tables make equal files."""


def save_tokens(table: TokenTable, path: Path | str) -> None:
    """Write a table. The file appears whole or not at all; equal tables give equal bytes."""
    metadata = {
        entry.name: getattr(table, entry.name) for entry in fields(table) if entry.name != "rows"
    }
    metadata["training"] = {
        str(index): asdict(training) for index, training in table.training.items()
    }
    metadata |= {"format": FORMAT, "encoders": list(table.encoders.items())}
    rows = table.rows.detach().float().cpu()
    tensors = {name: row.clone() for name, row in zip(table.names, rows, strict=True)}
    write_whole(Path(path).expanduser(), sealed(tensors, metadata))


def sealed(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> bytes:
    """A safetensors file of tensors and the engine's metadata, with a checksum of both for `read_tensors`."""
    text = json.dumps(metadata, sort_keys=True)
    metadata = {**json.loads(text), CHECKSUM: digest_of(tensors, text)}
    return save(dict(tensors), metadata={METADATA: json.dumps(metadata, sort_keys=True)})


def read_tokens(path: Path | str) -> TokenTable:
    """Read a table, whatever prior it is for. Raises TokenFileError for a file that is not one of `save_tokens`."""
    tensors, metadata = read_tensors(Path(path).expanduser())
    if "template" not in metadata:
        raise TokenFileError(
            f"{path} holds tensors and says nothing of tokens, expected a file of `ddis learn-tokens`: name one, or in "
            "Python read a textual inversion by import_textual_inversion."
        )
    if metadata.get("format") not in (FORMAT, OLD_FORMAT) or metadata.get("template") not in (
        TEMPLATE,
        INSTEAD,
    ):
        raise TokenFileError(
            f"{path} has token format {metadata.get('format')} and template {metadata.get('template')!r}, expected "
            f"{FORMAT} and {TEMPLATE!r} or {INSTEAD!r}: learn the tokens again, or in Python read a textual inversion "
            "by import_textual_inversion."
        )
    try:
        old = {OLD_ENCODER: metadata["width"]} if metadata["format"] == OLD_FORMAT else None
        encoders = {
            str(key): int(width) for key, width in (old or dict(metadata["encoders"])).items()
        }
        names = tuple(metadata["names"])
        width = sum(encoders.values())
        rows = [tensors[name].reshape(width) for name in names]
        return TokenTable(
            rows=torch.stack(rows) if rows else torch.empty(0, width),
            encoders=encoders,
            classes=tuple(metadata["classes"]),
            labels=tuple(metadata["labels"]),
            names=names,
            prior=metadata["prior"],
            classifier=metadata["classifier"],
            template=metadata["template"],
            training={
                int(index): _training(entry) for index, entry in metadata["training"].items()
            },
            run=metadata["run"],
            kinds=tuple(metadata.get("kinds", ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise TokenFileError(
            f"{path} lacks a part of a token table ({error!r}), expected a file of `ddis learn-tokens`: "
            "learn the tokens again."
        ) from error


def _training(entry: Mapping[str, Any]) -> TokenTraining:
    named = {OLD_NAMES.get(name, name): value for name, value in entry.items()}
    return TokenTraining(**named | {"kinds": tuple(named.get("kinds", ()))})


def load_tokens(path: Path | str, prior: Prior, classifier: Classifier | None = None) -> TokenTable:
    """Read a table and check that it fits. Raises TokenFileError as `read_tokens` and `check_fit` do."""
    table = read_tokens(path)
    try:
        check_fit(table, prior, classifier)
    except TokenFileError as error:
        raise TokenFileError(f"{path}: {error}") from None
    return table


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A safetensors file's tensors, and the engine's metadata or {}. Raises TokenFileError where it is not one."""
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            metadata = json.loads((file.metadata() or {}).get(METADATA, "{}"))
            if not isinstance(metadata, dict):
                raise TokenFileError(
                    f"{path} has metadata {str(metadata)[:40]!r}, expected an object: "
                    "give the path of a file of `ddis learn-tokens`."
                )
            tensors = {name: file.get_tensor(name) for name in names}
        kept = metadata.pop(CHECKSUM, None)  # files of old have none
        if kept is not None and kept != digest_of(tensors, json.dumps(metadata, sort_keys=True)):
            raise TokenFileError(
                f"{path} has another checksum than it was written with, expected it as it was written: bring a copy, "
                "or delete it and learn the tokens again."
            )
        return tensors, metadata
    except (OSError, SafetensorError, ValueError) as error:
        raise TokenFileError(
            f"{path} cannot be read as safetensors ({error}), expected a token file: "
            "give the path of a file of `ddis learn-tokens`."
        ) from error
