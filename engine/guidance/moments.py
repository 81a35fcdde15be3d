"""Measure by hooks: record the moments of what a network's layers read."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ddis_kernels import channel_moments
from torch import Tensor, nn

from engine.classifiers.statistics import Tap
from engine.types import Moments


@contextmanager
def recording_moments(taps: Sequence[Tap], per_image: bool = False) -> Iterator[list[Moments]]:
    """Yield a list that a forward pass fills with the moments of what each tapped layer reads, in call order.

    Moments are over all axes but the channels', (C,) each; with `per_image`, over all but the first and the channels',
    (N, C) each. They carry the graph of the pass, so use them before the block ends: it empties the list and removes
    every hook.
    """
    taken: list[Moments] = []

    def recorder(axis: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0] if axis == 1 else inputs[0].movedim(axis, 1)
            taken.append(channel_moments(x, per_image))

        return record

    hooks = [layer.register_forward_pre_hook(recorder(axis)) for layer, axis in dict.fromkeys(taps)]
    try:
        yield taken
    finally:
        for hook in hooks:
            hook.remove()
        taken.clear()
