"""The records of the table of architectures: each part is the name of its class and its config."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """A part of a pipeline: its class in diffusers or transformers, or a tiny decoder of `VARIANTS`, and its config."""

    kind: str
    config: Config = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PriorArchitecture:
    """A prior without its weights.

    Attributes:
        pipeline: Its class in diffusers.
        networks: Its networks, by the names that the pipeline gives them.
        tokenizers: What stands in for each of its tokenizers, by name (see `tokenizers`).
        scheduler: Its scheduler.
        tiny: A tiny decoder that reads its latents, if there is one.
        arguments: Of the pipeline's constructor.
    """

    pipeline: str
    networks: Mapping[str, Part]
    tokenizers: Mapping[str, str]
    scheduler: Part
    tiny: Part | None = None
    arguments: Config = field(default_factory=dict)
