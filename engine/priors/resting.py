"""Networks that rest in main memory and move to the prior's device only while they run."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

REST = torch.device("cpu")


@contextmanager
def on_device(networks: Iterable[nn.Module], device: torch.device) -> Iterator[None]:
    """Move resting networks to a device, all at once, for the duration of the block."""
    networks = [*networks]
    try:
        for network in networks:
            network.to(device)
        yield
    finally:
        for network in networks:
            network.to(REST)


@contextmanager
def one_at_a_time(networks: Iterable[nn.Module], device: torch.device) -> Iterator[None]:
    """Move each resting network to a device only while it is called, for the duration of the block.

    For calls without a gradient: by the backward pass the weights would have left the device again.
    """

    def come(network: nn.Module, _: object) -> None:
        network.to(device)

    def leave(network: nn.Module, *_: object) -> None:
        network.to(REST)

    with ExitStack() as hooks:
        for network in networks:
            hooks.callback(network.register_forward_pre_hook(come).remove)
            hooks.callback(network.register_forward_hook(leave, always_call=True).remove)
        yield
