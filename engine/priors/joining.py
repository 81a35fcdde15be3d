"""Joining the entries of prompts that were encoded apart, which may be of different lengths (Qwen-Image).

lengths 5 and 7, no masks      the first is padded with zeros to 7; masks are made: 5 ones and 2 zeros, 7 ones
one with a mask, one without   the other's is all ones, which pipelines leave out
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from engine.errors import ModelError
from engine.priors.entries import Entry

Column = Sequence[Entry]
"""The same entry of several parts."""


def joined_call(parts: Sequence[Sequence[Entry]]) -> tuple[Entry, ...]:
    """The entries of one call for the images of all parts, in their order."""
    joined: list[Entry] = []
    before: Column = ()
    for column in zip(*parts, strict=True):
        if _is_ragged(before) and not _may_be_masks(column):
            raise ModelError(
                "prompts that were encoded apart have different lengths and no mask tells where each ends, expected "
                "equal lengths or a mask: encode all prompts of a batch together."
            )
        joined.append(_joined(_with_masks(column, before)))
        before = column
    return tuple(joined)


def _with_masks(column: Column, before: Column) -> Column:
    """A column with the masks that are left out where all are ones; before: the column that they mask."""
    absent = [entry.value is None for entry in column]
    if not any(absent) or (all(absent) and not _is_ragged(before)):
        return column
    return [
        mask if mask.value is not None else Entry(_ones(masked.value), masked.owner)
        for mask, masked in zip(column, before, strict=True)
    ]


def _ones(masked: Tensor) -> Tensor:
    return torch.ones(masked.shape[:2], dtype=torch.int64, device=masked.device)


def _is_ragged(column: Column) -> bool:
    """Whether tensors (N, L, D) are of different lengths L."""
    values = [entry.value for entry in column if entry.owner != "shared"]
    return len({v.shape[1] for v in values if isinstance(v, Tensor) and v.dim() == 3}) > 1


def _may_be_masks(column: Column) -> bool:
    """Whether each is None or a tensor (N, L) of integers."""
    values = [entry.value for entry in column if entry.value is not None]
    return all(isinstance(v, Tensor) and v.dim() == 2 and not v.is_floating_point() for v in values)


def _joined(column: Column) -> Entry:
    first = column[0]
    if first.owner == "shared":
        return first
    width = max(entry.width for entry in column)
    if isinstance(first.value, list):
        values = [value for entry in column for value in entry.value]
        return replace(first, value=values, width=width)
    longest = max(entry.value.shape[1:2] for entry in column)
    return replace(first, value=torch.cat([_padded(entry.value, longest) for entry in column]))


def _padded(value: Tensor, length: torch.Size) -> Tensor:
    """(N, L, ...) -> (N, length, ...), with zeros behind."""
    missing = length[0] - value.shape[1] if length else 0
    return pad(value, (*(0, 0) * (value.dim() - 2), 0, missing)) if missing else value
