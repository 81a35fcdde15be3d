"""What a pipeline's `encode_prompt` returned for some images, ready to be handed back to it.

Nobody but the pipeline knows what its entries mean. What is known is which of them have one row per
image, and which belong to the prompts and which to the negative prompt: both show in how the results
differ with and without guidance, and between one prompt and several.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from engine.errors import ModelError
from engine.priors import hollow
from engine.priors.entries import Entry, Rows, entries_of, paired, prompts_call
from engine.priors.joining import joined_call


@dataclass(frozen=True, eq=False)
class Context:
    """The encoded prompts of N images: `len(context)`, `context[rows]` and `Context.join` go by image.

    calls: the results of `encode_prompt`, one tuple of entries per call. images: N.
    """

    calls: tuple[tuple[Entry, ...], ...]
    images: int

    @classmethod
    def of(
        cls,
        results: Sequence[Any],
        guided: Sequence[Any] | None,
        images: int,
        known: "Context | None" = None,
    ) -> "Context":
        """The context of N prompts.

        Args:
            results: What the calls returned for the N prompts without guidance.
            guided: What they returned for one prompt with guidance; None for a context without it.
            images: N.
            known: A context of the same pipeline, whose shared entries are shared in any.
        """
        if guided is None:
            alike = known.calls if known is not None else [()] * len(results)
            calls = tuple(
                prompts_call(result, images, call)
                for result, call in zip(results, alike, strict=False)
            )
            return cls(calls, images)
        calls = tuple(
            paired(entries_of(results[number]) if number < len(results) else None, one, images)
            for number, one in enumerate(map(entries_of, guided))
        )
        return cls(calls, images)

    @classmethod
    def join(cls, parts: Sequence["Context"]) -> "Context":
        """The images of several contexts of one prior, in their order.

        Prompts that were encoded apart may be of different lengths: they get the longest, and a mask that tells.
        """
        if len(parts) == 1:
            return parts[0]
        calls = tuple(
            joined_call(same) for same in zip(*(part.calls for part in parts), strict=True)
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
        half = len(self.calls) // 2
        first, second = self.calls[:half], self.calls[half:]
        if (
            half
            and _owners(first).isdisjoint(_owners(second) - {"shared"})
            and "negative" in _owners(second)
        ):
            # The negative prompt has a call of its own, whose results go together.
            return Context(
                (*(tuple(map(_as_prompt, call)) for call in second), *second), self.images
            )
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
            lambda entry: _as_prompt(next(pairs)) if entry.owner == "prompt" else entry
        )

    def packed(self) -> Tensor:
        """All that gradients of the prompts can reach, as one tensor (N, F)."""
        found = [entry.packed() for entry in self._differentiable()]
        return found[0] if len(found) == 1 else torch.cat(found, 1)

    def with_packed(self, rows: Tensor) -> "Context":
        """This context with what `packed` gave replaced by `rows` (N, F), in the dtypes it had."""
        parts = iter(rows.split(self.widths, 1))
        return self._mapped(
            lambda entry: entry.with_packed(next(parts)) if entry.is_differentiable else entry
        )

    @property
    def widths(self) -> list[int]:
        """How many of the F numbers of `packed` each entry has."""
        return [entry.width or entry.value[0].numel() for entry in self._differentiable()]

    def _differentiable(self) -> list[Entry]:
        return [entry for call in self.calls for entry in call if entry.is_differentiable]

    def _mapped(self, change: Any) -> "Context":
        return Context(tuple(tuple(map(change, call)) for call in self.calls), self.images)


def _owners(calls: Sequence[Sequence[Entry]]) -> set[str]:
    return {entry.owner for call in calls for entry in call}


def _as_prompt(entry: Entry) -> Entry:
    return replace(entry, owner="prompt") if entry.owner == "negative" else entry


def _on(value: Any, device: torch.device) -> Any:
    if isinstance(value, list):
        return [_on(one, device) for one in value]
    if not isinstance(value, Tensor) or (
        hollow.is_hollow(device) and not value.is_floating_point()
    ):
        return value  # integers for 'meta' keep their values
    return value.to(device)


def _detached(value: Any) -> Any:
    if isinstance(value, list):
        return [_detached(one) for one in value]
    return value.detach() if isinstance(value, Tensor) else value
