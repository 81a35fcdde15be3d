"""Tokens from and to diffusers' textual-inversion files: safetensors, one per class.

A file holds the placeholder -> (1, D) of a prior with one text encoder; of one with several, each encoder's key, such
as clip_l and clip_g -> (1, width).
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from engine.classifiers.base import Classifier
from engine.errors import TokenFileError
from engine.files import write_whole
from engine.priors import Prior
from engine.tokens.files import read_tensors
from engine.tokens.table import TokenTable, encoder_widths, placeholders


def export_textual_inversion(table: TokenTable, folder: Path | str) -> dict[str, Path]:
    """Write a file per class for `pipe.load_textual_inversion(path, token=name)`. Returns the path of each name."""
    paths = {name: Path(folder) / f"{name.strip('<>')}.safetensors" for name in table.names}
    spans = table.spans()
    for name, row in zip(table.names, table.rows.detach().float().cpu(), strict=True):
        vectors = {key: row[None, span].clone() for key, span in spans.items()}
        write_whole(
            paths[name], save(vectors if len(vectors) > 1 else {name: next(iter(vectors.values()))})
        )
    return paths


def import_textual_inversion(
    files: Mapping[str, Path | str], prior: Prior, classifier: Classifier
) -> TokenTable:
    """A table from files that diffusers or the engine wrote: label -> safetensors file of (D,) or (1, D) vectors.

    A file holds one vector, or for a prior with several text encoders one under each encoder's key. The classes get the
    engine's own placeholders, whatever the files call theirs. Raises TokenFileError for a label that the classifier
    lacks, and for a file of another kind, another width or several vectors.
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
    """A file's row for all encoders of a prior: (D,)."""
    tensors, _ = read_tensors(path)
    found = tensors if len(encoders) > 1 else dict(zip(encoders, tensors.values(), strict=False))
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    fits = len(tensors) == len(encoders) and all(
        key in found and tuple(found[key].shape) in {(width,), (1, width)}
        for key, width in encoders.items()
    )
    if not fits:
        expected = " and ".join(
            f"{f'{key!r}, ' if len(encoders) > 1 else ''}one vector of width {width}"
            for key, width in encoders.items()
        )
        raise TokenFileError(
            f"{path} holds {shapes}, expected {expected}: give a textual inversion of a single token, learned for this "
            "prior's text encoders."
        )
    return torch.cat([found[key].reshape(width).float() for key, width in encoders.items()])
