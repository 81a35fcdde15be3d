"""Triton where it is installed. Without it the kernels stay plain functions that nobody can launch: `_backend` says so."""

try:
    import triton
    import triton.language as tl
except ModuleNotFoundError:
    triton = tl = None

__all__ = ["INTERPRETED", "jit", "tl", "triton"]

INTERPRETED = bool(triton and triton.knobs.runtime.interpret)
"""Set by TRITON_INTERPRET=1 before the first import: kernels run on CPU tensors, one program after the other."""


def jit(kernel):
    """`triton.jit`, or the function itself."""
    return triton.jit(kernel) if triton else kernel
