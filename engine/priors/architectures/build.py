"""Priors by architecture alone, so that planning needs no download. Weights are random, or none at all on 'meta'."""

from typing import Any, NamedTuple

import torch
from torch import nn

from engine.networks.frozen import seeded
from engine.networks.quiet import quiet
from engine.priors.architectures.families import PRIOR_ARCHITECTURES
from engine.priors.architectures.part import Part
from engine.priors.architectures.tokenizers import TOKENIZERS
from engine.priors.tiny_decoder import VARIANTS
from engine.settings.sources import ARCHITECTURE, check_prior

PREFIX = ARCHITECTURE


class Built(NamedTuple):
    """A pipeline that is not yet frozen, and a tiny decoder of its latents if there is one."""

    pipe: Any
    tiny: nn.Module | None


def build_prior(name: str, device: torch.device, dtype: torch.dtype) -> Built:
    """The pipeline of `arch:<name>`, with random weights, the same each time; without any on 'meta'.

    Raises ModelError.
    """
    check_prior(PREFIX + name)
    found = PRIOR_ARCHITECTURES[name]
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)  # no float32 copy of a large network, even for a moment
        with quiet(), seeded(), torch.device(device):
            networks = {part: network(entry) for part, entry in found.networks.items()}
            tiny = None if found.tiny is None else network(found.tiny)
    finally:
        torch.set_default_dtype(before)
    with quiet():
        tokenizers = {part: TOKENIZERS[family]() for part, family in found.tokenizers.items()}
        scheduler = _class_of("diffusers", found.scheduler.kind)(**found.scheduler.config)
        kind = _class_of("diffusers", found.pipeline)
        pipe = kind(**networks, **tokenizers, scheduler=scheduler, **found.arguments)
    return Built(pipe, tiny)


def network(part: Part) -> nn.Module:
    """A network as the table describes it, on the default device in the default dtype."""
    import diffusers

    if part.kind in VARIANTS:
        return VARIANTS[part.kind]()
    if hasattr(diffusers, part.kind):
        made: nn.Module = getattr(diffusers, part.kind)(**part.config)
        return made
    kind = _class_of("transformers", part.kind)
    text: nn.Module = kind(kind.config_class(**part.config))
    return text


def _class_of(library: str, name: str) -> Any:
    from importlib import import_module

    return getattr(import_module(library), name)
