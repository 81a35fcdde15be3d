"""Measure by hooks: record the moments of what a network's layers read or give."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ddis_kernels import channel_moments, merge_moments
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from engine.classifiers.statistics import Tap
from engine.classifiers.statistics.rows import by_image
from engine.types import Moments


@contextmanager
def recording_moments(taps: Sequence[Tap], per_image: bool = False) -> Iterator[list[Moments]]:
    """Yield a list that a forward pass fills with the moments at each tap, in call order.

    Moments are over all axes but the channels', (C,) each; with `per_image`, over all but the first and the channels',
    (N, C) each. They carry the graph of the pass, so use them before the block ends: it empties the list and removes
    every hook.
    """
    taken: list[Moments] = []
    hooks = [_hooked(tap, taken, per_image) for tap in dict.fromkeys(taps)]
    try:
        yield taken
    finally:
        for hook in hooks:
            hook.remove()
        taken.clear()


def merged(
    before: Sequence[Moments], now: Sequence[Moments], seen: int, more: int
) -> list[Moments]:
    """Moments at each tap of `seen` images, at first none, and of `more` images together."""
    if not seen:
        return list(now)
    return [merge_moments(one, other, seen, more) for one, other in zip(before, now, strict=True)]


def _hooked(tap: Tap, taken: list[Moments], per_image: bool) -> RemovableHandle:
    """Measure what a tap sees in each pass, until the hook that is returned is removed."""

    def measure(x: Tensor) -> None:
        taken.append(channel_moments(by_image(x, tap), per_image))

    def read(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        measure(inputs[0])
        return (inputs[0].clone(), *inputs[1:]) if tap.overwritten else None

    def given(_: nn.Module, __: object, output: Tensor) -> Tensor | None:
        measure(output)
        return output.clone() if tap.overwritten else None

    # Backward needs what was measured, so what the network writes over has to be a copy.
    if tap.of == "input":
        return tap.layer.register_forward_pre_hook(read)
    hook: Callable[..., Tensor | None] = given
    return tap.layer.register_forward_hook(hook)
