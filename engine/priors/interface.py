"""What a prior hands to the rest of the engine, besides tensors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

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
    module: Any
    row_scale: float
