"""What a pipeline's `encode_prompt` returned for some images, ready to be handed back to it.

Nobody but the pipeline knows what its entries mean. What is known is which of them have one row per
image, and which belong to the prompts and which to the negative prompt: both show in how the results
differ with and without guidance, and between one prompt and several.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from engine.errors import ModelError

Rows: TypeAlias = slice | Sequence[int] | Tensor
Owner = Literal["prompt", "negative", "shared"]


@dataclass(frozen=True, eq=False)
class Entry:
    """One value of a result. With an owner other than "shared" it is a tensor (N, ...) or a list of N."""

    value: Any
    owner: Owner

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
        return (
            self.owner == "prompt"
            and isinstance(self.value, Tensor)
            and self.value.is_floating_point()
        )


@dataclass(frozen=True, eq=False)
class Context:
    """The encoded prompts of N images: `len(context)`, `context[rows]` and `Context.join` go by image.

    calls: the results of `encode_prompt`, one tuple of entries per call. images: N.
    """

    calls: tuple[tuple[Entry, ...], ...]
    images: int

    @classmethod
    def of(cls, results: Sequence[Any], guided: Sequence[Any] | None, images: int) -> "Context":
        """The context of N prompts.

        Args:
            results: What the calls returned for the N prompts without guidance.
            guided: What they returned for one prompt with guidance; None for a context without it.
            images: N.
        """
        if guided is None:
            calls = tuple(
                tuple(_prompts_entry(value, images) for value in entries_of(r)) for r in results
            )
            return cls(calls, images)
        calls = tuple(
            _paired(entries_of(results[number]) if number < len(results) else None, one, images)
            for number, one in enumerate(map(entries_of, guided))
        )
        return cls(calls, images)

    @classmethod
    def join(cls, parts: Sequence["Context"]) -> "Context":
        """The images of several contexts of one prior, in their order."""
        if len(parts) == 1:
            return parts[0]
        calls = tuple(
            tuple(_joined(entries) for entries in zip(*same, strict=True))
            for same in zip(*(part.calls for part in parts), strict=True)
        )
        return cls(calls, sum(part.images for part in parts))

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, rows: Rows) -> "Context":
        count = len(range(self.images)[rows]) if isinstance(rows, slice) else len(rows)
        return Context(
            tuple(tuple(entry.rows(rows) for entry in call) for call in self.calls), count
        )

    def results(self) -> Iterator[tuple[Any, ...]]:
        """What `encode_prompt` shall return, call by call."""
        for call in self.calls:
            yield tuple(entry.value for entry in call)

    def to(self, device: torch.device) -> "Context":
        """The context on a device."""
        return self._mapped(lambda entry: replace(entry, value=_on(entry.value, device)))

    def detach(self) -> "Context":
        """The context without a graph."""
        return self._mapped(lambda entry: replace(entry, value=_detached(entry.value)))

    def null(self) -> "Context":
        """The context of the negative prompt as if it were the prompt, for a denoiser without CFG."""
        entries = [entry for call in self.calls for entry in call]
        negatives = [entry for entry in entries if entry.owner == "negative"]
        prompts = [entry for entry in entries if entry.owner == "prompt"]
        if len(negatives) != len(prompts):
            raise ModelError(
                f"the context has {len(prompts)} entries for its prompts and {len(negatives)} for a negative one, "
                "expected one of these for each: encode the prompts with a negative prompt, of a prior that has CFG."
            )
        pairs = iter(negatives)
        return self._mapped(
            lambda entry: (
                replace(entry, value=next(pairs).value) if entry.owner == "prompt" else entry
            )
        )

    def packed(self) -> Tensor:
        """All that gradients of the prompts can reach, as one tensor (N, F)."""
        found = [entry.value.flatten(1) for entry in self._differentiable()]
        return found[0] if len(found) == 1 else torch.cat(found, 1)

    def with_packed(self, rows: Tensor) -> "Context":
        """This context with what `packed` gave replaced by `rows` (N, F), in the dtypes it had."""
        sizes = [0]
        for entry in self._differentiable():
            sizes.append(sizes[-1] + entry.value[0].numel())
        spans = iter(pairwise(sizes))

        def filled(entry: Entry) -> Entry:
            if not entry.is_differentiable:
                return entry
            start, stop = next(spans)
            return replace(
                entry, value=rows[:, start:stop].view(entry.value.shape).to(entry.value.dtype)
            )

        return self._mapped(filled)

    def _differentiable(self) -> list[Entry]:
        return [entry for call in self.calls for entry in call if entry.is_differentiable]

    def _mapped(self, change: Any) -> "Context":
        return Context(tuple(tuple(map(change, call)) for call in self.calls), self.images)


def entries_of(result: Any) -> tuple[Any, ...]:
    """The values of one result; an empty list is as good as None."""
    values = result if isinstance(result, tuple) else (result,)
    return tuple(None if isinstance(value, list) and not value else value for value in values)


def _prompts_entry(value: Any, images: int) -> Entry:
    """Without a second result to compare with, what has N rows is taken to have one per image."""
    counted = isinstance(value, Tensor | list) and len(value) == images
    return Entry(value, "prompt" if counted else "shared")


def _paired(
    prompts: tuple[Any, ...] | None, one: tuple[Any, ...], images: int
) -> tuple[Entry, ...]:
    """The entries of one call; prompts: None for a call that guidance alone makes."""
    given = prompts if prompts is not None else (None,) * len(one)
    return tuple(_entry(many, single, images) for many, single in zip(given, one, strict=True))


def _entry(many: Any, single: Any, images: int) -> Entry:
    """many: without guidance, for N prompts. single: with it, for one."""
    counted = isinstance(single, Tensor | list) and len(single) == 1
    if many is not None:
        by_image = counted and isinstance(many, Tensor | list) and len(many) == images
        return Entry(many, "prompt" if by_image else "shared")
    if not counted:
        return Entry(single, "shared")
    if isinstance(single, Tensor):
        return Entry(single.expand(images, *single.shape[1:]), "negative")
    return Entry(single * images, "negative")


def _joined(entries: Sequence[Entry]) -> Entry:
    first = entries[0]
    if first.owner == "shared":
        return first
    if isinstance(first.value, list):
        return replace(first, value=[value for entry in entries for value in entry.value])
    return replace(first, value=torch.cat([entry.value for entry in entries]))


def _on(value: Any, device: torch.device) -> Any:
    if isinstance(value, list):
        return [_on(one, device) for one in value]
    return value.to(device) if isinstance(value, Tensor) else value


def _detached(value: Any) -> Any:
    if isinstance(value, list):
        return [_detached(one) for one in value]
    return value.detach() if isinstance(value, Tensor) else value
