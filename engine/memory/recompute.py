"""Gradient checkpointing of diffusers' networks, switched inside a block."""

import inspect
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

MASK = "attention_mask"
UNMASKED = ("ChromaTransformer2DModel",)
"""Networks that hand some of their blocks no attention mask where they checkpoint them, by class."""


@contextmanager
def checkpointed(networks: Iterable[Any]) -> Iterator[None]:
    """Inside the block, backward through those networks that can do so recomputes activations."""
    networks = [n for n in networks if getattr(n, "_supports_gradient_checkpointing", False)]
    with ExitStack() as stack:
        for network in networks:
            stack.callback(network.disable_gradient_checkpointing)
            if type(network).__name__ in UNMASKED:
                masked = _WithMask(network)
                stack.callback(masked.hook.remove)
                network.enable_gradient_checkpointing(masked)
            else:
                network.enable_gradient_checkpointing()
        yield


class _WithMask:
    """Checkpoints a network's blocks with the attention mask that the network was called with.

    Without it the gradient would be that of another network than the one that sampled.
    """

    def __init__(self, network: nn.Module) -> None:
        self.mask: Any = None
        self.hook = network.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.mask = kwargs.get(MASK)

    def __call__(self, block: nn.Module, *args: Any) -> Any:
        given = inspect.signature(block.forward).bind_partial(*args).arguments
        missing = {} if MASK in given else {MASK: self.mask}
        return checkpoint(block.__call__, *args, use_reentrant=False, **missing)
