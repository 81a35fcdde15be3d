"""Count what a piece of work takes, without a table: bytes alive, FLOPs, operators; on real tensors or on 'meta'.

A storage counts from the operator that makes it until nothing holds it any more: a variable, a graph's saved tensors, a
view. What existed before (weights, inputs) is not counted. What an operator takes and gives back within itself, such as
a convolution's workspace, is not seen.

On 'meta' torch works most results out in Python, over and over for layers that are alike: here it does so once for each
kind of arguments.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten
ATTENTION_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")

Kind = tuple[torch.Size, tuple[int, ...], torch.dtype]
"""All that a result depends on in a tensor of 'meta': shape, strides, dtype."""


class Result(NamedTuple):
    """What an operator gives for arguments of some kind. several: as a tuple or a list, not as one tensor."""

    kinds: list[Kind | None]
    several: type[tuple[Any, ...]] | type[list[Any]] | None
    flops: int

    def again(self) -> Any:
        """New tensors of the same kinds."""
        values = [None if kind is None else _empty(kind) for kind in self.kinds]
        return self.several(values) if self.several else values[0]


_results: dict[Hashable, Result] = {}


@dataclass
class Record:
    """What a count adds up, in order. changes: bytes allocated, negative where released. flops: none is left out."""

    changes: list[int] = field(default_factory=list)
    flops: list[int] = field(default_factory=list)


class Count(TorchDispatchMode):
    """What was counted so far. live, peak: bytes. flops: of matrix products, convolutions and attention."""

    def __init__(self, record: Record | None = None) -> None:
        super().__init__()
        self.record = record
        self.live = 0
        self.peak = 0
        self.flops = 0
        self.operators = 0
        self._known: dict[int, tuple[int, ref[Any]]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spare each operator a call that keeps torch's compiler out: nothing is compiled while it is counted."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operator = _operator(func)
        self.operators += 1
        if operator.gives_arguments:
            return func(*args, **kwargs)
        key, known = _remembered(func, args, kwargs) if operator.pure else (None, None)
        if known is not None:
            out, flops = known.again(), known.flops
        else:
            for value in _tensors((*args, *kwargs.values())):
                self._note(value, 0)
            out, flops = _computed(func, operator, args, kwargs, key)
        for value in _tensors((out,)):
            self._note(value, value.untyped_storage().nbytes())
        self.peak = max(self.peak, self.live)
        self.flops += flops
        if self.record is not None and flops:
            self.record.flops.append(flops)
        return out

    def _note(self, value: Tensor, nbytes: int) -> None:
        """Count the storage of a tensor that was not seen before; an input is an older one, and counts nothing."""
        storage = value.untyped_storage()
        key = _storage(value)
        if key not in self._known:
            self._known[key] = nbytes, ref(storage, lambda _: self._release(key))
            self._change(nbytes)

    def _release(self, key: int) -> None:
        nbytes, _ = self._known.pop(key)
        self._change(-nbytes)

    def _change(self, nbytes: int) -> None:
        self.live += nbytes
        if self.record is not None and nbytes:
            self.record.changes.append(nbytes)


def _storage(value: Tensor) -> int:
    """What tells a storage from others while it is alive."""
    return value.untyped_storage()._cdata


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among an operator's arguments or results, and in lists of them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


class Operator(NamedTuple):
    """What is known of an operator whatever its arguments are.

    pure: it only makes new tensors: no view, nothing in place. gives_arguments: its results lie in the memory of its
    arguments, as those of views do, and it has no FLOPs. formula: of its FLOPs; None where it has none.
    """

    pure: bool
    gives_arguments: bool
    formula: Any


@cache
def _operator(func: Any) -> Operator:
    arguments, returns = func._schema.arguments, func._schema.returns
    formula = _FORMULAS.get(func) or flop_registry.get(getattr(func, "_overloadpacket", None))
    return Operator(
        pure=not any(value.alias_info for value in (*arguments, *returns)),
        gives_arguments=bool(returns)
        and all(value.alias_info for value in returns)
        and formula is None,
        formula=formula,
    )


def _remembered(func: Any, args: Any, kwargs: Any) -> tuple[Hashable, Result | None]:
    """What is equal for calls that have like results, and what such a call gave before.

    Neither for a call with values that cannot be looked up, such as a tensor that is not on 'meta'.
    """
    try:
        key = func, _like(args), _like(tuple(kwargs.items()))
        return key, _results.get(key)
    except TypeError:
        return None, None


def _computed(
    func: Any, operator: Operator, args: Any, kwargs: Any, key: Hashable
) -> tuple[Any, int]:
    """What an operator gives, and its FLOPs; remembered under a key, if there is one."""
    out = func(*args, **kwargs)
    flops = int(operator.formula(*args, **kwargs, out_val=out)) if operator.formula else 0
    if key is not None:
        several = type(out) if type(out) in (tuple, list) else None
        values = out if several else [out]
        tensors = [value for value in values if value is not None]
        # Some share an argument's storage and do not say so in their schema, such as _unsafe_view.
        given = {_storage(value) for value in _tensors((*args, *kwargs.values()))}
        if tensors and all(_is_whole(v) and _storage(v) not in given for v in tensors):
            kinds = [None if v is None else (v.shape, v.stride(), v.dtype) for v in values]
            _results[key] = Result(kinds, several, flops)
    return out, flops


def _like(value: Any) -> Hashable:
    """Equal for arguments that have like results. Raises TypeError where there is a tensor that is not on 'meta'."""
    if isinstance(value, Tensor):
        if not value.is_meta:
            raise TypeError("a tensor with values")
        return value.shape, value.stride(), value.dtype
    if isinstance(value, (list, tuple)):
        return tuple(_like(inner) for inner in value)
    return type(value), value  # 1, 1.0 and True are equal


def _is_whole(value: Any) -> bool:
    """Whether it is a tensor of 'meta' with a storage of its own size, which `_empty` makes again."""
    if not isinstance(value, Tensor) or not value.is_meta:
        return False
    again = _empty((value.shape, value.stride(), value.dtype))
    return again.untyped_storage().nbytes() == value.untyped_storage().nbytes()


def _empty(kind: Kind) -> Tensor:
    shape, strides, dtype = kind
    return torch.empty_strided(shape, strides, dtype=dtype, device="meta")


@contextmanager
def counting(record: Record | None = None) -> Iterator[Count]:
    """Count what runs within the block on this thread, and record it where there is a record."""
    with _fused_attention_on_meta(), Count(record) as count:
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
            given["query"],
            given["key"],
            given["value"],
            0.0,
            bool(given.get("is_causal", False)),
            attn_mask=given.get("attn_mask"),
            scale=given.get("scale"),
        )[0]

    functional.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = original


_FORMULAS: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu.default: (
        lambda q, k, v, *_, **__: sdpa_flop_count(q.shape, k.shape, v.shape)
    ),
    aten._scaled_dot_product_flash_attention_for_cpu_backward.default: (
        lambda g, q, k, v, *_, **__: sdpa_backward_flop_count(g.shape, q.shape, k.shape, v.shape)
    ),
}
"""FLOPs of operators that torch's registry lacks."""
