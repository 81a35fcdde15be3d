"""What the learning loop asks of the models."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from engine.priors import Context
from engine.settings import TokenLearning
from engine.types import ImageKey


class ContextGradient(NamedTuple):
    """What an update reads of N images: logits (N, K), and its loss's gradient by `Context.packed` (N, F), float32.

    scale: what the loss was multiplied by on its way back; the largest, from the one given down, that left it finite.
    """

    logits: Tensor
    by_context: Tensor
    scale: float


class Drawn(Protocol):
    """A batch of N images on its way; `Trajectories` says what its counts are."""

    @property
    def denoiser_forward(self) -> Tensor: ...

    @property
    def denoiser_backward(self) -> Tensor: ...

    @property
    def complete(self) -> bool:
        """Whether the images that the first gradient reads are the finished ones."""
        ...

    def gradient(
        self, update: int, context: Context, targets: Tensor, learning: TokenLearning, scale: float
    ) -> ContextGradient:
        """The gradient of one update's loss by the context of N prompts, without a graph; targets: (N,) classes.

        loss = (sum of the images' cross-entropies + domain_weight N L_BN of the batch) / images_per_epoch
        """
        ...

    def finished(self, rows: Sequence[int]) -> Tensor:
        """Logits (n, K) of some of the images, finished."""
        ...


class ImageSource(Protocol):
    """Where the images of learning come from: prior, sampler and classifier behind three functions.

    scale: what the loss is multiplied by on its way back at first; `learn` lowers it where a float16 network overflows.
    """

    scale: float

    def encode(self, classes: Sequence[int], with_tokens: bool) -> Context:
        """The prompts' context, one prompt a class; no graph."""
        ...

    def to_rows(
        self, classes: Sequence[int], by_context: Tensor, rows: Tensor, scale: float
    ) -> tuple[Tensor, float]:
        """A gradient by the packed context of prompts with tokens, (n, F), taken on to the tokens' rows (K, D).

        The prompts are encoded again for it, so that their graph is not held while images are drawn and seen, nor the
        text encoder. Returns also the scale; see `ContextGradient`.
        """
        ...

    def draw(self, keys: Sequence[ImageKey], context: Context) -> Drawn:
        """Sample N images, the context of each given; no graph."""
        ...
