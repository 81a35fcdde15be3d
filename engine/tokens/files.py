"""Token tables in files: safetensors, one tensor (D,) per class under the class's placeholder, and JSON metadata."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from engine.classifiers.base import Classifier
from engine.errors import TokenFileError
from engine.files import write_whole
from engine.networks.sealed import sealed, unsealed
from engine.priors import Prior
from engine.tokens.table import INSTEAD, TEMPLATE, TokenTable, TokenTraining, check_fit

FORMAT = 2
OLD_FORMAT, OLD_ENCODER = 1, "clip"
"""Of version 0.1, which knew one text encoder."""
OLD_NAMES = {"unet_forward": "denoiser_forward", "unet_backward": "denoiser_backward"}
"""Of what learning cost, in files of before priors without a UNet."""


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
    if not path.exists():
        raise TokenFileError(
            f"there is no {path}, expected a token file: check the path, or learn tokens with `ddis learn-tokens`."
        )
    if path.is_dir():
        raise TokenFileError(
            f"{path} is a folder, expected a token file (.safetensors) of `ddis learn-tokens`: give the file's path."
        )
    try:
        tensors, metadata, intact = unsealed(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise TokenFileError(
            f"{path} cannot be read as safetensors ({error}), expected a token file: "
            "give the path of a file of `ddis learn-tokens`."
        ) from error
    if not intact:
        raise TokenFileError(
            f"{path} has another checksum than it was written with, expected it as it was written: bring a copy, "
            "or delete it and learn the tokens again."
        )
    return tensors, metadata
