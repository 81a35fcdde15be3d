"""Triton where it is installed. Without it the kernels stay plain functions that `_backend` refuses to launch."""

from typing import Any

try:
    import triton
    import triton.language as tl
except ModuleNotFoundError:
    triton = tl = None

__all__ = ["INTERPRETED", "jit", "sizes_at_run_time", "tl", "triton"]

INTERPRETED = bool(triton and triton.knobs.runtime.interpret)
"""Set by TRITON_INTERPRET=1 before the first import: kernels run on CPU tensors, one program after the other."""


def jit(kernel: Any) -> Any:
    """`triton.jit`, or the function itself."""
    return triton.jit(kernel) if triton else kernel


def sizes_at_run_time(*names: str) -> Any:
    """`triton.jit` for a kernel that is compiled once for all values of these arguments."""
    return triton.jit(do_not_specialize=[*names]) if triton else lambda kernel: kernel
