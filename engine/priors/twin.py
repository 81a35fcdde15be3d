"""A frozen twin of somebody's pipeline: the same weights in memory, other objects around them."""

import copy
from typing import Any

import torch
from torch import nn

from engine.networks.frozen import cast, freeze, safe_dtype
from engine.networks.quiet import quiet
from engine.priors.roles import dtypes, networks


def frozen_twin(
    pipe: Any, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Any:
    """A copy of a pipeline whose networks are frozen and in evaluation mode, and its own stay as they are.

    Args:
        pipe: The pipeline. Its networks, scheduler and settings are not changed.
        device: Where the twin's networks shall be; None for where the pipeline's are.
        dtype: What they shall compute in; None for what the pipeline's do.
    """
    twin, chosen = copy.copy(pipe), dtypes(pipe, dtype)
    for name, network in networks(pipe).items():
        # Past the pipeline's __setattr__, which would enter the twin's parts into its config.
        twin.__dict__[name] = frozen_copy(network, device, chosen[name])
    twin.__dict__["scheduler"] = copy.deepcopy(pipe.scheduler)
    return twin


def frozen_copy(
    network: nn.Module, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Any:
    """A frozen copy of a network in evaluation mode, on the same memory where it is neither moved nor cast."""
    with quiet():
        twin = freeze(_sharing(network))
        # What is quantised refuses a cast, even to its own dtype; and parts may be more exact than the rest.
        if dtype is not None and safe_dtype(type(network), dtype) != network.dtype:
            twin = cast(twin, dtype)
        return twin if device is None else twin.to(device)


def _sharing(network: nn.Module) -> nn.Module:
    """A copy of a network with parameters and buffers of its own on the same memory.

    One whose parameters are of another class (quantised) is returned itself: it is frozen already.
    """
    values = [*network.parameters(), *network.buffers()]
    if any(type(value) not in (nn.Parameter, torch.Tensor) for value in values):
        return network
    twins: dict[int, Any] = {}
    for value in values:
        shared = value.detach()
        is_weight = isinstance(value, nn.Parameter)
        twins[id(value)] = nn.Parameter(shared, requires_grad=False) if is_weight else shared
    return copy.deepcopy(network, twins)
