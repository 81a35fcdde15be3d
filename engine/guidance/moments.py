"""Record the moments of what a network's BatchNorm layers read."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ddis_kernels import channel_moments
from torch import Tensor, nn

from engine.types import Moments


@contextmanager
def recording_moments(
    layers: Sequence[nn.Module], per_image: bool = False
) -> Iterator[list[Moments]]:
    """Yield a list that a forward pass fills with the moments of each layer's input, in call order.

    Moments are over batch and space, (C,) each; with `per_image`, over space alone, (N, C) each. They carry the graph
    of the pass, so use them before the block ends: it empties the list and removes every hook.
    """
    taken: list[Moments] = []

    def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        taken.append(channel_moments(inputs[0], per_image))

    hooks = [layer.register_forward_pre_hook(record) for layer in dict.fromkeys(layers)]
    try:
        yield taken
    finally:
        for hook in hooks:
            hook.remove()
        taken.clear()
