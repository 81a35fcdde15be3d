"""Integers that are known on the device 'meta', where tensors have shapes and no values.

Pipelines and text encoders look at the masks of their prompts: whether one is all ones, how long each prompt is, which
places are padding. So on 'meta' a copy of each tensor of integers lives on the CPU.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    _get_current_dispatch_mode_stack,
    _pop_mode_temporarily,
)
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

aten = torch.ops.aten
CPU, META = torch.device("cpu"), torch.device("meta")
READS = (aten._local_scalar_dense.default, aten.nonzero.default, aten._to_copy.default)
"""Operators that need values."""


def is_hollow(device: torch.device) -> bool:
    """Whether tensors on a device have no values."""
    return device.type == "meta"


def hollow_calls(device: torch.device) -> AbstractContextManager[object]:
    """What a call on a device runs in: `KnownIntegers` on 'meta', and nothing elsewhere."""
    return KnownIntegers() if is_hollow(device) else nullcontext()


def with_values(result: Any) -> Any:
    """A result with its integers on the CPU, as far as their values are known; for use in `hollow_calls`."""
    modes = [mode for mode in _get_current_dispatch_mode_stack() if isinstance(mode, KnownIntegers)]
    return tree_map_only(Tensor, modes[-1].on_cpu, result) if modes else result


def placed(result: Any, device: torch.device) -> Any:
    """What `with_values` gave, back on 'meta'."""
    if not is_hollow(device):
        return result
    return tree_map_only(Tensor, lambda tensor: tensor.to(device), result)


class KnownIntegers(TorchDispatchMode):
    """Inside it, integers and booleans on 'meta' that come from the CPU, or from nothing but such, have values.

    They are kept by storage, which views share: for each its values on the CPU, and a weak reference, which lets it go
    and yet does not let its address be given to another.
    """

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[int, tuple[StorageWeakRef, Tensor]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spare each operator a call that keeps torch's compiler out: nothing is compiled here."""
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is aten.index.Tensor:
            args = (args[0], [place for index in args[1] for place in self._places(index)])
        read = self._read(func, args, kwargs)
        if read is not None:
            return read()
        result = func(*args, **kwargs)
        made = list(_tensors(result))
        if made and all(map(_is_followed, made)):
            self._follow(func, args, kwargs, made)
        return result

    def on_cpu(self, tensor: Tensor) -> Tensor:
        """An integer tensor on the CPU if its values are known, and any other tensor as it is."""
        value = self._value(tensor) if _is_whole(tensor) else None
        return tensor if value is None else value.clone()

    def _read(self, func: Any, args: Any, kwargs: Any) -> Callable[[], Any] | None:
        """How to answer a call whose answer is no tensor on 'meta', if the values that it asks for are known."""
        if func not in READS or not args[0].is_meta:
            return None
        value = self._value(args[0])
        if value is None:
            return None
        if func is aten._local_scalar_dense.default:
            return value.item
        if func is aten.nonzero.default:
            return lambda: self._kept(value.nonzero())
        if func is aten._to_copy.default and kwargs.get("device") == CPU:
            return lambda: func(value, **kwargs)
        return None

    def _follow(self, func: Any, args: Any, kwargs: Any, made: list[Tensor]) -> None:
        """Compute the values of results, or forget those of what a call wrote with others that nobody knows."""
        writes = func._schema.is_mutable
        if not writes and all(_key(leaf) in self._known for leaf in made):
            return  # views
        leaves, spec = tree_flatten((args, kwargs))
        values = [self._value(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        pairs = zip(values, leaves, strict=True)
        if torch.Tag.nondeterministic_seeded in func.tags or any(
            value is None and isinstance(leaf, Tensor) for value, leaf in pairs
        ):
            for leaf in made:
                self._known.pop(_key(leaf), None)
            return
        moved = [CPU if isinstance(value, torch.device) else value for value in values]
        with _disable_current_modes():
            arguments, named = tree_unflatten(moved, spec)
            computed = list(_tensors(func(*arguments, **named)))
        if not writes:
            for leaf, value in zip(made, computed, strict=True):
                self._keep(leaf, value)

    def _places(self, index: Tensor | None) -> list[Tensor | None]:
        """A mask on 'meta' as the indices of its ones, one tensor for each of its axes."""
        value = self._value(index) if index is not None and index.dtype == torch.bool else None
        if value is None or index is None or not index.is_meta:
            return [index]
        return [self._kept(column) for column in value.nonzero().unbind(1)]

    def _value(self, tensor: Tensor) -> Tensor | None:
        """The values of a tensor on the CPU; None where they are not known."""
        if not tensor.is_meta:
            return tensor if tensor.device == CPU else None
        storage, base = self._known.get(_key(tensor), (None, None))
        if storage is None or base is None or storage.expired():
            return None
        with _disable_current_modes():
            return base.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    def _kept(self, value: Tensor) -> Tensor:
        """A tensor on 'meta' with these values."""
        with _disable_current_modes():
            hollow = torch.empty_like(value, device=META)
        self._keep(hollow, value)
        return hollow

    def _keep(self, hollow: Tensor, value: Tensor) -> None:
        storage = hollow.untyped_storage()
        with _disable_current_modes():
            base = torch.empty(storage.nbytes() // hollow.element_size(), dtype=hollow.dtype)
            base.as_strided(hollow.shape, hollow.stride(), hollow.storage_offset()).copy_(value)
        self._known[_key(hollow)] = (StorageWeakRef(storage), base)


class Outside:
    """A network on 'meta', which is given timesteps and masks on the CPU.

    It is called outside `KnownIntegers` unless it is given integers: most are not, and following these costs time.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["inner"], name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to(META), (args, kwargs))
        given = tree_flatten((args, kwargs))[0]
        if any(isinstance(value, Tensor) and _is_whole(value) for value in given):
            return self.inner(*args, **kwargs)
        with _pop_mode_temporarily() as mode:
            assert isinstance(mode, KnownIntegers)
            return self.inner(*args, **kwargs)


def _tensors(result: Any) -> Iterator[Tensor]:
    """The tensors that an operator gives."""
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, list | tuple):
        for value in result:
            yield from _tensors(value)


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _is_followed(tensor: Tensor) -> bool:
    return tensor.is_meta and _is_whole(tensor)


def _is_whole(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() and not tensor.is_complex()
