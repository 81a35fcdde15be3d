"""The entries of a context: what each value of an `encode_prompt` is, and whose."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

Rows: TypeAlias = slice | Sequence[int] | Tensor
Owner = Literal["prompt", "negative", "shared"]


@dataclass(frozen=True, eq=False)
class Entry:
    """One value of a result. With an owner other than "shared" it is a tensor (N, ...) or a list of N tensors.

    width: of a list, how many numbers its longest tensor has, also where that one was not chosen. masks: whether it is
    the mask (N, L) of another value, (N, L, D).
    """

    value: Any
    owner: Owner
    width: int = 0
    masks: bool = False

    @classmethod
    def of(cls, value: Any, owner: Owner) -> "Entry":
        listed = isinstance(value, list) and owner != "shared"
        return cls(value, owner, max(tensor.numel() for tensor in value) if listed else 0)

    def rows(self, rows: Rows) -> "Entry":
        if self.owner == "shared":
            return self
        if isinstance(self.value, Tensor):
            places = rows if isinstance(rows, slice | Tensor) else list(rows)
            return replace(self, value=self.value[places])
        numbers = range(len(self.value))[rows] if isinstance(rows, slice) else [*map(int, rows)]
        return replace(self, value=[self.value[number] for number in numbers])

    @property
    def is_differentiable(self) -> bool:
        """Whether gradients of a prompt can reach it."""
        values = self.value if isinstance(self.value, list) else [self.value]
        return (
            self.owner == "prompt"
            and not self.masks
            and all(isinstance(value, Tensor) and value.is_floating_point() for value in values)
        )

    def packed(self) -> Tensor:
        """Its numbers, (N, F): of a list those of each tensor, then zeros."""
        if isinstance(self.value, Tensor):
            return self.value.flatten(1)
        rows = [pad(tensor.flatten(), (0, self.width - tensor.numel())) for tensor in self.value]
        return torch.stack(rows)

    def with_packed(self, rows: Tensor) -> "Entry":
        """The entry with what `packed` gave replaced by `rows` (N, F), in the dtypes it had."""
        if isinstance(self.value, Tensor):
            return replace(self, value=rows.view(self.value.shape).to(self.value.dtype))
        pairs = zip(rows, self.value, strict=True)
        return replace(self, value=[row[: v.numel()].view(v.shape).to(v.dtype) for row, v in pairs])


def entries_of(result: Any) -> tuple[Any, ...]:
    """The values of one result; an empty list is as good as None."""
    values = result if isinstance(result, tuple) else (result,)
    return tuple(None if isinstance(value, list) and not value else value for value in values)


def prompts_call(result: Any, images: int, known: Sequence[Entry]) -> tuple[Entry, ...]:
    """The entries of one call, where what has N rows is taken to have one for each image.

    known: the entries of another such call, if there was one; what was shared there is shared.
    """
    shared = [entry.owner == "shared" and entry.value is not None for entry in known]
    return _masks_marked(
        Entry.of(value, "prompt" if _goes_by_image(value, images) and not is_shared else "shared")
        for value, is_shared in zip_longest(entries_of(result), shared, fillvalue=False)
    )


def paired(prompts: tuple[Any, ...] | None, one: tuple[Any, ...], images: int) -> tuple[Entry, ...]:
    """The entries of one call; prompts: None for a call that guidance alone makes."""
    given = prompts if prompts is not None else (None,) * len(one)
    pairs = zip(given, one, strict=True)
    return _masks_marked(_entry(many, single, images) for many, single in pairs)


def _masks_marked(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """The entries of one call, those marked that are masks of others."""
    entries = tuple(entries)
    values = [entry.value for entry in entries if isinstance(entry.value, Tensor)]
    masked = {value.shape[:2] for value in values if value.dim() == 3}
    return tuple(
        replace(entry, masks=isinstance(entry.value, Tensor) and _is_mask(entry.value, masked))
        for entry in entries
    )


def _is_mask(value: Tensor, masked: Collection[torch.Size]) -> bool:
    """Whether a value masks one of these shapes (N, L): it is all zeros and ones, as far as it has values."""
    if value.shape not in masked:
        return False
    return value.is_meta or bool(((value == 0) | (value == 1)).all())


def _entry(many: Any, single: Any, images: int) -> Entry:
    """many: without guidance, for N prompts. single: with it, for one, which needs no mask."""
    counted = _goes_by_image(single, 1)
    if many is not None:
        is_prompts = _goes_by_image(many, images) and (counted or single is None)
        return Entry.of(many, "prompt" if is_prompts else "shared")
    if not counted:
        return Entry.of(single, "shared")
    if isinstance(single, Tensor):
        return Entry.of(single.expand(images, *single.shape[1:]), "negative")
    return Entry.of(single * images, "negative")


def _goes_by_image(value: Any, images: int) -> bool:
    return isinstance(value, Tensor | list) and len(value) == images
