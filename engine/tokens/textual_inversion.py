"""Tokens from and to textual-inversion files, of diffusers and of AUTOMATIC1111's web UI.

    one text encoder        a file per class: its placeholder -> (1, D)
    several                 a folder per class, with a file per encoder: clip_l.safetensors: clip_l -> (1, width), ...

diffusers loads one such file a call, into one encoder. Read as well are one file with the keys of all encoders, and
pickled files (.pt, .bin), of which nothing but tensors and plain values is ever unpickled.
"""

import struct
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from engine.classifiers.base import Classifier
from engine.errors import TokenFileError, brief
from engine.files import write_whole
from engine.priors import Prior
from engine.priors.roles import ENCODER_KEYS
from engine.tokens.files import read_tensors
from engine.tokens.table import TokenTable, encoder_widths, placeholders

SUFFIX = ".safetensors"
PICKLED = (".pt", ".bin", ".pth")
A1111 = "string_to_param"
"""Under this key AUTOMATIC1111 keeps its one tensor."""
UNREADABLE = (OSError, RuntimeError, EOFError, KeyError, ValueError, struct.error, UnpicklingError)
"""What torch raises for files that are broken or hold more than tensors."""


def export_textual_inversion(table: TokenTable, folder: Path | str) -> dict[str, Path]:
    """Write tokens for `pipe.load_textual_inversion(path, token=name)`. Returns the path of each name.

    Of a prior with several text encoders that is a folder, whose files are loaded one after the other, each with its
    own `text_encoder=` and `tokenizer=`.
    """
    paths: dict[str, Path] = {}
    spans = table.spans()
    for name, row in zip(table.names, table.rows.detach().float().cpu(), strict=True):
        place = Path(folder) / name.strip("<>")
        vectors = {key: row[None, span].clone() for key, span in spans.items()}
        if len(vectors) == 1:
            paths[name] = place.with_name(place.name + SUFFIX)
            write_whole(paths[name], save({name: next(iter(vectors.values()))}))
            continue
        paths[name] = place
        for key, vector in vectors.items():
            write_whole(place / f"{key}{SUFFIX}", save({key: vector}))
    return paths


def import_textual_inversion(
    files: Mapping[str, Path | str], prior: Prior, classifier: Classifier
) -> TokenTable:
    """A table from files that diffusers, AUTOMATIC1111 or the engine wrote: label -> file or folder of vectors.

    A file holds one vector, (D,) or (1, D), or one for each text encoder under the encoder's key; a folder has a file
    for each encoder, named by its key. The classes get the engine's own placeholders, whatever the files call theirs.

    Raises TokenFileError for a label that the classifier lacks, and for a file of another kind, another width, another
    encoder or several vectors.
    """
    for label in files:
        if label not in classifier.labels:
            raise TokenFileError(
                f"class {label!r} is not a label of classifier {classifier.name!r}, expected some of "
                f"{', '.join(map(repr, classifier.labels[:20]))}: name the class that each file is for."
            )
    encoders = encoder_widths(prior)
    names = placeholders(classifier.labels)
    numbers = {label: classifier.labels.index(label) for label in files}
    rows = [_vector(Path(path), encoders) for path in files.values()]
    return TokenTable(
        rows=torch.stack(rows) if rows else torch.empty(0, sum(encoders.values())),
        encoders=encoders,
        classes=tuple(numbers.values()),
        labels=tuple(files),
        names=tuple(names[number] for number in numbers.values()),
        prior=prior.fingerprint,
        classifier=classifier.fingerprint,
    )


def _vector(path: Path, encoders: Mapping[str, int]) -> Tensor:
    """The row for all encoders of a prior in a file or folder: (D,)."""
    if path.is_dir():
        tensors: dict[str, Tensor] = {}
        for file in sorted(path.glob(f"*{SUFFIX}")):
            tensors |= _tensors(file)
    else:
        tensors = _tensors(path)
    found = dict(tensors)
    if len(encoders) == len(tensors) == 1 and not ENCODER_KEYS.intersection(tensors):
        found = dict(zip(encoders, tensors.values(), strict=True))  # under the token's name
    fits = len(tensors) == len(encoders) and all(
        key in found and tuple(found[key].shape) in {(width,), (1, width)}
        for key, width in encoders.items()
    )
    if not fits:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        expected = " and ".join(
            f"{f'{key!r}, ' if len(encoders) > 1 else ''}one vector of width {width}"
            for key, width in encoders.items()
        )
        raise TokenFileError(
            f"{path} holds {shapes}, expected {expected} for text encoder {' and '.join(encoders)}: give a textual "
            "inversion of a single token, learned for this prior's text encoders."
        )
    row = torch.cat([found[key].reshape(width).float() for key, width in encoders.items()])
    if not row.isfinite().all():
        raise TokenFileError(
            f"{path} holds numbers that are NaN or infinite, expected finite ones: learn the token again, or fetch the "
            "file again."
        )
    return row


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name; AUTOMATIC1111's under the name of its token."""
    if path.suffix not in PICKLED:
        return read_tensors(path)[0]
    try:
        with torch.serialization.safe_globals([nn.ParameterDict]):
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise TokenFileError(
            f"{path} cannot be read without running code that is in it ({brief(error)}), expected a textual inversion "
            "of tensors and plain values: convert it to safetensors where you trust it."
        ) from error
    kept = content.get(A1111) if isinstance(content, Mapping) else None
    if isinstance(kept, Mapping | nn.ParameterDict):
        content = {str(content.get("name")): kept.get("*")}
    if isinstance(content, Tensor):
        content = {path.stem: content}
    tensors = dict(content) if isinstance(content, Mapping) else {}
    if not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise TokenFileError(
            f"{path} holds no textual inversion, expected a token and its vector, or AUTOMATIC1111's {A1111!r}: give "
            "the path of an embedding, not of a model."
        )
    return {str(name): value.detach() for name, value in tensors.items()}
