"""Count what a piece of work takes, without a table: bytes alive, FLOPs, operators; on real tensors or on 'meta'.

A storage counts from the operator that makes it until nothing holds it any more: a variable, a graph's saved tensors, a
view. What existed before (weights, inputs) is not counted. What an operator takes and gives back within itself, such as
a convolution's workspace, is not seen.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import finalize

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten
ATTENTION_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")


class Count(TorchDispatchMode):
    """What was counted so far. live, peak: bytes. flops: of matrix products, convolutions and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self.flops = 0
        self.operators = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for value in tree_iter((args, kwargs)):
            if isinstance(value, Tensor):
                self._note(value, 0)
        out = func(*args, **kwargs)
        for value in tree_iter(out):
            if isinstance(value, Tensor):
                self._note(value, value.untyped_storage().nbytes())
        self.peak = max(self.peak, self.live)
        self.operators += 1
        self.flops += _flops(func, args, kwargs, out)
        return out

    def _note(self, value: Tensor, nbytes: int) -> None:
        """Count the storage of a tensor that was not seen before; an input is an older one, and counts nothing."""
        storage = value.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            self._known[key] = nbytes
            self.live += nbytes
            finalize(storage, self._release, key).atexit = False

    def _release(self, key: int) -> None:
        self.live -= self._known.pop(key)


@contextmanager
def counting() -> Iterator[Count]:
    """Count what runs within the block on this thread."""
    with _fused_attention_on_meta(), Count() as count:
        yield count


@contextmanager
def _fused_attention_on_meta() -> Iterator[None]:
    """Let attention on 'meta' take a fused kernel, as it does on a device, and not the form with whole matrices.

    What the kernel gives, and keeps for backward, has the same shapes on a CPU and in CUDA's flash and memory-efficient
    kernels: the result, and one number a query and head. Real tensors see no difference. torch's function is replaced
    rather than caught by a mode: a mode is off while backward runs, which calls it again where it is checkpointed.
    """
    original = functional.scaled_dot_product_attention

    def attention(*args: Any, **kwargs: Any) -> Tensor:
        given = dict(zip(ATTENTION_ARGUMENTS, args, strict=False)) | kwargs
        if not given["query"].is_meta or given.get("dropout_p"):
            return original(*args, **kwargs)
        return aten._scaled_dot_product_flash_attention_for_cpu(
            given["query"], given["key"], given["value"], 0.0, bool(given.get("is_causal", False)),
            attn_mask=given.get("attn_mask"), scale=given.get("scale"),
        )[0]  # fmt: skip

    functional.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = original


def _flops(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    if func is aten._scaled_dot_product_flash_attention_for_cpu.default:
        query, key, value = args[:3]
        return int(sdpa_flop_count(query.shape, key.shape, value.shape))
    if func is aten._scaled_dot_product_flash_attention_for_cpu_backward.default:
        grad, query, key, value = args[:4]
        return int(sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape))
    formula = flop_registry.get(getattr(func, "_overloadpacket", None))
    return int(formula(*args, **kwargs, out_val=out)) if formula else 0
