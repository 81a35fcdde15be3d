"""What the learning loop asks of the models."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from engine.types import ImageKey


class Seen(NamedTuple):
    """What a classifier says of a batch: logits (N, K), and the batch's L_BN (), zero where it is not asked for."""

    logits: Tensor
    l_bn: Tensor


class Drawn(Protocol):
    """A batch of N images on its way; `Trajectories` says what its members are."""

    unet_forward: Tensor
    unet_backward: Tensor

    @property
    def complete(self) -> bool: ...

    def seen(self, update: int, context: Tensor) -> Seen: ...

    def finished(self, rows: Sequence[int]) -> Tensor: ...


class Source(Protocol):
    """Where the images of learning come from: prior, sampler and classifier behind two functions.

    scale: of the loss on its way back; `learn` lowers it where a float16 network overflows.
    """

    scale: float

    def encode(self, classes: Sequence[int], with_tokens: bool) -> Tensor:
        """The prompts' context (n, L, D), one row a class, differentiable by the state's rows."""
        ...

    def draw(self, keys: Sequence[ImageKey], context: Tensor) -> Drawn:
        """Sample N images, the context (N, L, D) of each given; no graph."""
        ...
