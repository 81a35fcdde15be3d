"""Moments of a union of two sets from the moments of each (Chan, Golub and LeVeque).

    p = Mb / (Ma + Mb)      mean = mean_a + p (mean_b - mean_a)
    var  = (1 - p) var_a + p var_b + p (1 - p) (mean_b - mean_a)^2

Exact: statistics over micro-batches equal those over the whole batch to rounding.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton would read annotations of its kernels as types of its own.
from __future__ import annotations

from torch import empty_like

from ddis_kernels import _backend as backend
from ddis_kernels._triton import jit, tl, triton
from ddis_kernels._triton_moments import on_device
from ddis_kernels.channel_moments import Moments


def merge_moments_reference(a: Moments, b: Moments, count_a: int, count_b: int) -> Moments:
    """`merge_moments` in plain torch."""
    share = count_b / (count_a + count_b)
    gap = b.mean - a.mean
    spread = gap.square() * (share * (1 - share))
    return Moments(a.mean + gap * share, a.var * (1 - share) + b.var * share + spread)


@jit
def _merge_kernel(
    mean_a_ptr, var_a_ptr, mean_b_ptr, var_b_ptr, mean_ptr, var_ptr, share, n, BLOCK: tl.constexpr
):
    """All pointers: (n,) float32. share: of set b in the union."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    mean_a, var_a = tl.load(mean_a_ptr + i, mask), tl.load(var_a_ptr + i, mask)
    gap = tl.load(mean_b_ptr + i, mask) - mean_a
    var = (
        var_a * (1 - share) + tl.load(var_b_ptr + i, mask) * share + gap * gap * share * (1 - share)
    )
    tl.store(mean_ptr + i, mean_a + gap * share, mask)
    tl.store(var_ptr + i, var, mask)


def merge_moments(a: Moments, b: Moments, count_a: int, count_b: int) -> Moments:
    """Moments of the union of two sets, from those of each: (C,) or (N, C), and the values per channel that each is of.

    Where a gradient is wanted, and in a graph that is compiled, it is plain torch: a few operations on (C,), which
    a compiler joins with their neighbours.
    """
    if not (count_a >= 0 and count_b >= 0 and count_a + count_b > 0):
        raise ValueError(
            f"merge_moments got counts {count_a} and {count_b}, expected at least 0 each and more than 0 "
            "together: give the number of values per channel, N*H*W."
        )
    _check_same(a, b)
    needs_graph = any(t.requires_grad for t in (*a, *b))
    chosen = "reference" if needs_graph or backend.is_watched(a.mean) else backend.choose(a.mean)
    if chosen == "reference":
        return merge_moments_reference(a, b, count_a, count_b)
    a, b = (Moments(m.mean.contiguous(), m.var.contiguous()) for m in (a, b))
    merged = Moments(empty_like(a.mean), empty_like(a.var))
    if chosen == "cpp":
        backend.cpu.merge_moments(*a, count_a, *b, count_b, *merged)
    else:
        n, block = a.mean.numel(), 1024
        with on_device(a.mean):
            _merge_kernel[(triton.cdiv(n, block),)](
                *a, *b, *merged, count_b / (count_a + count_b), n, block
            )
    return merged


def _check_same(a: Moments, b: Moments) -> None:
    kinds = {(t.shape, t.dtype, t.device) for t in (*a, *b)}
    if len(kinds) != 1:
        shapes = ", ".join(f"{tuple(t.shape)} {t.dtype} on {t.device}" for t in (*a, *b))
        raise ValueError(
            f"merge_moments got {shapes}, expected one shape, dtype and device: merge a layer with itself."
        )
