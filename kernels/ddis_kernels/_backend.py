"""Which implementation serves a tensor: C++ on the CPU, Triton on CUDA, plain torch where it is asked for.

`DDIS_KERNELS_BACKEND` is read here and nowhere else: `auto` (default), or `reference`, `cpp`, `triton` for all.
float64 is always served by the reference: it is for checking gradients, not for speed.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ddis_kernels._triton import INTERPRETED, triton

try:
    from ddis_kernels import _cpu  # type: ignore[attr-defined]  # built by CMake
except ImportError:
    _cpu = None  # said by `choose`, when an op is called

cpu: Any = _cpu

BACKENDS = ("auto", "reference", "cpp", "triton")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class MissingKernelsError(ImportError):
    """The implementation that a tensor needs is not built or not installed."""


def _checked(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(
            f"kernels backend is {name!r}, expected one of {', '.join(BACKENDS)}: "
            "set DDIS_KERNELS_BACKEND to one of these."
        )
    return name


_wanted = _checked(os.environ.get("DDIS_KERNELS_BACKEND", "auto"))


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Serve every tensor with one implementation inside the block."""
    global _wanted
    before, _wanted = _wanted, _checked(name)
    try:
        yield
    finally:
        _wanted = before


def choose(x: Tensor) -> str:
    """The implementation that serves x: `reference`, `cpp` or `triton`. MissingKernelsError if it is not there."""
    if _wanted == "reference" or x.dtype == torch.float64:
        return "reference"
    name = _wanted
    if name == "auto":
        name = "cpp" if x.is_cpu else "triton" if x.is_cuda else name
    if name == "cpp" and x.is_cpu:
        if cpu is None:
            raise MissingKernelsError(
                "ddis_kernels has no C++ part here, expected ddis_kernels._cpu for tensors on the CPU: build it with "
                "`pip install .` in the repository (a C++ compiler with OpenMP is needed), or choose plain torch with "
                "DDIS_KERNELS_BACKEND=reference."
            )
        return name
    if name == "triton" and (x.is_cuda or INTERPRETED):
        if triton is None:
            raise MissingKernelsError(
                "Triton is not installed, expected it for tensors on CUDA: `pip install 'ddis[gpu]'`, or choose plain "
                "torch with DDIS_KERNELS_BACKEND=reference."
            )
        return name
    raise MissingKernelsError(
        f"no kernels for a tensor on {x.device} with backend {_wanted!r}, expected cpp on the CPU or triton on CUDA: "
        "set DDIS_KERNELS_BACKEND=reference for plain torch."
    )


def is_watched(x: Tensor) -> bool:
    """Is x traced, fake, or seen by a dispatch mode? Then it must go through the registered operator."""
    return (
        type(x) not in (Tensor, torch.nn.Parameter)
        or torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or x.is_meta
    )


def must_record(x: Tensor) -> bool:
    """Must a gradient with respect to x go through a registered operator? Also where it is itself to be differentiated:
    the operators of gradients have no derivative, so that a second one fails loudly instead of being wrong."""
    return is_watched(x) or torch.is_grad_enabled()


def check_feature_map(op: str, x: Tensor) -> None:
    """Raise unless x is (N, C, *) of a float dtype with at least one element."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{op} got {type(x).__name__}, expected a tensor (N, C, *): use torch.as_tensor first."
        )
    if not x.is_floating_point():
        raise TypeError(f"{op} got {x.dtype}, expected a floating dtype: convert the input first.")
    if x.dim() < 2:
        raise ValueError(
            f"{op} got shape {tuple(x.shape)}, expected (N, C, *): add an axis for the batch or for the channels."
        )
    if x.numel() == 0:
        raise ValueError(
            f"{op} got shape {tuple(x.shape)}, expected (N, C, *) with at least one element: "
            "an empty batch has no moments. Pass one that is not."
        )
    if x.dtype not in (*DTYPES, torch.float64):
        raise TypeError(
            f"{op} got {x.dtype}, expected float32, float16, bfloat16 or float64: convert the input first."
        )


def is_interleaved(x: Tensor) -> bool:
    """Are the channels of x: (N, C, *) innermost in memory (channels_last), without gaps?"""
    if x.dim() == 4:
        return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return x.dim() > 2 and not x.is_contiguous() and x.movedim(1, -1).is_contiguous()


def dense(x: Tensor) -> Tensor:
    """x itself if it is one block of memory in either layout, else a contiguous copy."""
    x = x.resolve_neg()  # else a flag says that all values in memory have the other sign
    return x if x.is_contiguous() or is_interleaved(x) else x.contiguous()


def like(x: Tensor, other: Tensor) -> Tensor:
    """x in the memory format of other, a dense tensor of the same shape."""
    return (
        x if x.stride() == other.stride() and not x.is_neg() else torch.empty_like(other).copy_(x)
    )
