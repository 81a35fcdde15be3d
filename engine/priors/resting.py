"""Networks that rest in main memory, and are on the prior's device only while they work."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

REST = torch.device("cpu")


@contextmanager
def on_device(networks: Iterable[nn.Module], device: torch.device) -> Iterator[None]:
    """Inside the block resting networks are on a device, all at once."""
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
    """Inside the block each of some resting networks is on a device while it is called, and only then.

    For calls without a gradient: a backward pass would look for the weights where they no longer are.
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
