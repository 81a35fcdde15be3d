"""Tokens from and to diffusers' textual-inversion files: safetensors, one per class, placeholder -> (1, D)."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from engine.classifiers.base import Classifier
from engine.errors import TokenFileError
from engine.files import write_whole
from engine.models.prior import Prior
from engine.tokens.table import TokenTable, embedding_width, placeholders, read_tensors


def export_textual_inversion(table: TokenTable, folder: Path | str) -> dict[str, Path]:
    """Write a file per class for `pipe.load_textual_inversion(path, token=name)`. Returns the path of each name."""
    paths = {name: Path(folder) / f"{name.strip('<>')}.safetensors" for name in table.names}
    for name, row in zip(table.names, table.rows.detach().float().cpu(), strict=True):
        write_whole(paths[name], save({name: row[None].clone()}))
    return paths


def import_textual_inversion(
    files: Mapping[str, Path | str], prior: Prior, classifier: Classifier
) -> TokenTable:
    """A table from files that diffusers or the engine wrote: label -> safetensors file of one vector (D,) or (1, D).

    The classes get the engine's own placeholders, whatever the files call theirs. Raises TokenFileError for a label
    that the classifier lacks, and for a file of another kind, another width or several vectors.
    """
    for label in files:
        if label not in classifier.labels:
            raise TokenFileError(
                f"class {label!r} is not a label of classifier {classifier.name!r}, expected some of "
                f"{', '.join(map(repr, classifier.labels[:20]))}: name the class that each file is for."
            )
    width = embedding_width(prior)
    names = placeholders(classifier.labels)
    numbers = {label: classifier.labels.index(label) for label in files}
    rows = [_single_vector(Path(path), width) for path in files.values()]
    return TokenTable(
        rows=torch.stack(rows) if rows else torch.empty(0, width),
        classes=tuple(numbers.values()),
        labels=tuple(files),
        names=tuple(names[number] for number in numbers.values()),
        prior=prior.fingerprint,
        classifier=classifier.fingerprint,
    )


def _single_vector(path: Path, width: int) -> Tensor:
    tensors, _ = read_tensors(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(tensors) != 1 or next(iter(shapes.values())) not in {(width,), (1, width)}:
        raise TokenFileError(
            f"{path} holds {shapes}, expected one vector of width {width}: give a textual inversion of a single "
            "token, learned for this prior's text encoder."
        )
    return next(iter(tensors.values())).reshape(width).float()
