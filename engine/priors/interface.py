"""What the rest of the engine asks of a prior."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from engine.priors.context import Context
from engine.priors.steps import Step
from engine.types import Prediction

Denoise = Callable[[Tensor, Step], Prediction]
"""(latents (N, ...), step) -> prediction: the frozen prior with its prompts and CFG bound."""

Role = Literal["denoiser", "text encoder", "decoder", "tiny decoder"]


@dataclass(frozen=True, eq=False)
class Component:
    """A frozen network of a prior, under the name that its pipeline gives it."""

    name: str
    role: Role
    module: nn.Module


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """A text encoder that tokens can be added to.

    Attributes:
        key: What token tables and files call it: clip, clip_l, clip_g, t5, gemma, qwen.
        name: Its component's name in the pipeline.
        tokenizer_name: The name of its tokenizer there.
        tokenizer: From words to the ids of its embeddings.
        module: The network.
        row_scale: What it multiplies rows of its embeddings by.
    """

    key: str
    name: str
    tokenizer_name: str
    tokenizer: Any
    module: nn.Module
    row_scale: float


class Prior(Protocol):
    """A frozen text-to-image model. `fingerprint` tells it from others in manifests and token files.

    Latents are float32 in the layout of the prior's own pipeline, packed for some families.
    """

    name: str
    fingerprint: str

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the denoiser's weights."""
        ...

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of an image, in pixels."""
        ...

    def describe(self) -> dict[str, Any]:
        """What images depend on, as JSON values."""
        ...

    def encode(self, prompts: Sequence[str], negative: str | None = None) -> Context:
        """The context of N prompts; `negative`, the prompt of CFG's other branch, serves all."""
        ...

    def schedule(self, steps: int) -> tuple[Step, ...]:
        """The steps of a run, from noise to image. Raises ConfigError for an impossible number."""
        ...

    def latent_shape(self, images: int) -> torch.Size:
        """The shape of the latents of N images."""
        ...

    def noise(self, generators: Sequence[torch.Generator], steps: int) -> Tensor:
        """Latents that a run of `steps` starts from, each drawn by its own CPU generator."""
        ...

    def denoiser(self, context: Context, cfg: float | None = None) -> Denoise:
        """Bind N prompts and classifier-free guidance; 1 is none, None the pipeline's default."""
        ...

    def decode(self, z: Tensor, clamp: bool = True) -> Tensor:
        """Latents (N, ...) -> images (N, 3, H, W) in [0, 1], or about that if not clamped."""
        ...

    def vae_latents(self, z: Tensor, decoder: nn.Module | None = None) -> Tensor:
        """What the pipeline hands to its decoder, or to another one: unpacked and unscaled."""
        ...

    def components(self) -> tuple[Component, ...]:
        """The networks, each once."""
        ...

    def text_encoders(self) -> tuple[TextEncoder, ...]: ...
