"""A low-rank adapter in a prior's denoiser while it learns, and its weights in the form that diffusers loads."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from engine.errors import ModelError
from engine.networks.quiet import quiet
from engine.priors import Prior
from engine.priors.lora import check_peft

ADAPTED = (
    *("to_q", "to_k", "to_v", "to_out.0"),
    *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    *("to_qkv_mlp_proj", "to_out"),
    *("conv_in", "conv_out"),
)
"""Layers that get an adapter, by the ends of their names: attention in every family, and the first and last
convolutions of a UNet."""
KINDS = (nn.Linear, nn.Conv2d)
NAME = "guidance"
"""What peft calls the adapter while it learns."""


@contextmanager
def adapting(prior: Prior, rank: int, seed: int) -> Iterator[dict[str, nn.Parameter]]:
    """Give the denoiser an adapter, which at first changes nothing, for the duration of a `with` block.

    Yields the adapter's parameters by name, in float32. Raises MissingExtraError without peft, ModelError for a
    denoiser that has no layers for an adapter, has quantised ones, or already has an adapter.
    """
    check_peft()
    from peft import LoraConfig

    network = prior.network
    if not hasattr(network, "add_adapter"):
        raise ModelError(
            f"the denoiser of prior {prior.name!r} is a {type(network).__name__}, expected a denoiser that diffusers "
            "has adapters for: choose another prior."
        )
    if prior.quantise != "none" or getattr(network, "peft_config", None):
        found = "an adapter already" if prior.quantise == "none" else "quantised layers"
        raise ModelError(
            f"the denoiser of prior {prior.name!r} has {found}, expected plain weights to learn an adapter for: load "
            "it without quantise, and merge adapters first (`lora=...`, or fuse_lora and unload_lora_weights of a "
            "pipeline)."
        )
    layers = [
        name
        for name, layer in network.named_modules()
        if isinstance(layer, KINDS) and name.endswith(ADAPTED)
    ]
    if not layers:
        raise ModelError(
            f"the denoiser of prior {prior.name!r} has no layers that take an adapter, expected linear layers of "
            "attention: choose another prior."
        )
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        network.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=layers), NAME)
    try:
        parameters = {n: value for n, value in network.named_parameters() if value.requires_grad}
        for value in parameters.values():  # Adam's moments vanish in half precision
            value.data = value.data.float()
        yield parameters
    finally:
        network.unload_lora()


def as_diffusers(prior: Prior, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an adapter's weights under the names that a pipeline's `load_lora_weights` reads."""
    role = next(part.name for part in prior.components() if part.role == "denoiser")
    return {
        f"{role}.{name.replace(f'.{NAME}.', '.')}": value.detach().float().cpu().contiguous()
        for name, value in parameters.items()
    }
