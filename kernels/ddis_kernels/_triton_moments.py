"""The Triton kernels that read a feature map: moments with or without act(scale x + shift), and their gradient.

A feature map is groups x N x C x S. Planar: pixels of a channel are neighbours; interleaved: channels of a pixel are.
Each lane of a program holds Welford's mean and sum of squares of the values it has read, so nothing crosses lanes until
the end. Where a channel has too few programs of its own, several share it, and the last to finish merges their parts.

Sizes are run-time arguments: a kernel is compiled for a layout, an activation, a dtype, a tile and an alignment, and a
network of fifty layers needs about ten compilations. A size that decides whether neighbours load as one vector comes
as a number of vectors, so that the compiler knows what divides it.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton would read annotations of its kernels as types of its own.
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ddis_kernels import _triton_tiles as tiles
from ddis_kernels._triton import INTERPRETED, jit, sizes_at_run_time, tl, triton

PROGRAMS = 1024
"""Enough to fill any GPU of today a few times over: channels are split until there are about as many programs."""

MOST_PARTS, MERGED = 64, 16
"""Parts of a channel that its last program merges, at most, and how many of them at a time."""

LARGE_PLANE = tl.constexpr(1 << 18) if tl else 1 << 18
"""Planes of more pixels are wider than any block: `_split_rows` compares instead of dividing."""

ACTIVATIONS = {"measure": 0, "none": 1, "relu": 1, "silu": 2}
"""What `_measure_kernel` writes beside measuring: nothing, or act(scale x + shift). ReLU is a run-time argument."""


@jit
def _activate(z, rectify, ACT: tl.constexpr):
    if ACT == 1:
        z = tl.where((z < 0) & (rectify != 0), 0.0, z)
    if ACT == 2:
        z = z / (1 + tl.exp(-z))
    return z


@jit
def _pull_back(gy, z, rectify, ACT: tl.constexpr):
    """gy act'(z)"""
    if ACT == 1:
        gy = tl.where((z <= 0) & (rectify != 0), 0.0, gy)
    if ACT == 2:
        s = 1 / (1 + tl.exp(-z))
        gy = gy * (s * (1 + z * (1 - s)))
    return gy


@jit
def _merge_lanes(mean, m2, count, AXIS: tl.constexpr):
    """Chan's rule over many sets at once: mean, sum of squared deviations and count of their union."""
    total = tl.sum(count, AXIS)
    # The weighted sum of means is taken relative to their plain average, so that a large common mean costs no digits.
    origin = tl.sum(tl.where(count > 0, mean, 0.0), AXIS) / tl.sum(
        tl.where(count > 0, 1.0, 0.0), AXIS
    )
    gap = tl.where(count > 0, mean - tl.expand_dims(origin, AXIS), 0.0)
    shift = tl.sum(gap * count, AXIS) / total
    gap -= tl.expand_dims(shift, AXIS)
    return origin + shift, tl.sum(m2 + tl.where(count > 0, gap * gap * count, 0.0), AXIS), total


@jit
def _split_rows(x, S):
    """x // S for small x, without the integer division that a size known only at run time would take.

    x < S + a few thousand. Exact: the quotient of x + 1/2 in float32 is further from a whole number than its error.
    """
    quotient = ((x.to(tl.float32) + 0.5) * (1.0 / S.to(tl.float32))).to(tl.int32)
    return tl.where(S > LARGE_PLANE, (x >= S).to(tl.int32), quotient)


@sizes_at_run_time("ROW_VECTORS", "PARTS", "C_VECTORS", "S_VECTORS", "RECTIFY")
def _measure_kernel(
    x_ptr,
    y_ptr,
    scale_ptr,
    shift_ptr,
    mean_ptr,
    var_ptr,
    parts_ptr,
    done_ptr,
    ROW_VECTORS,
    PARTS,
    C_VECTORS,
    S_VECTORS,
    RECTIFY,
    VECTOR: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    ACT: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_C: tl.constexpr,
    MERGED: tl.constexpr,
):
    """Moments of BLOCK_C channels of one group (1 if planar), or of one part of their ROWS = N * S values.

    x, y: (G, N, C, S) or (G, N, S, C), the last size a number of vectors of VECTOR values. mean, var: (G, C).
    parts: (2, PARTS, G, C). done: (G, blocks of C), zeros. MERGED: the parts that are merged at a time.
    """
    block, part, group = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    groups = tl.num_programs(2)
    C = C_VECTORS * VECTOR if INTERLEAVED else C_VECTORS
    S = S_VECTORS if INTERLEAVED else S_VECTORS * VECTOR
    ROWS = ROW_VECTORS if INTERLEAVED else ROW_VECTORS * VECTOR
    channel = block * BLOCK_C + tl.arange(0, BLOCK_C)
    valid = channel < C
    share = tl.cdiv(ROWS, PARTS * BLOCK) * BLOCK
    begin = part * share
    end = tl.minimum(begin + share, ROWS)
    base = group * C * S  # a group is an image, or there is one of them
    if ACT > 0:
        scale = tl.load(scale_ptr + channel, valid, 0.0)[None, :]
        shift = tl.load(shift_ptr + channel, valid, 0.0)[None, :]
    lane = tl.arange(0, BLOCK)
    mean = tl.zeros([BLOCK, BLOCK_C], tl.float32)
    m2 = tl.zeros([BLOCK, BLOCK_C], tl.float32)
    read = 0.0
    for start in range(begin, end, BLOCK):
        row = start + lane
        if INTERLEAVED:
            at = base + row.to(tl.int64)[:, None] * C + channel[None, :]
        else:
            image, pixel = start // S, start % S + lane
            later = _split_rows(pixel, S)
            plane = (image + later).to(tl.int64) * (C.to(tl.int64) * S)
            # A plane is a whole number of vectors, so none of them crosses from one into the next.
            inside = tl.max_contiguous(tl.multiple_of(pixel - later * S, VECTOR), VECTOR)
            plane = tl.max_constancy(plane, VECTOR)
            at = (base + plane + inside)[:, None] + (channel.to(tl.int64) * S)[None, :]
        mask = (row < end)[:, None] & valid[None, :]
        v = tl.load(x_ptr + at, mask, 0.0).to(tl.float32)
        if ACT > 0:
            tl.store(
                y_ptr + at,
                _activate(v * scale + shift, RECTIFY, ACT).to(y_ptr.dtype.element_ty),
                mask,
            )
        read += 1.0
        gap = tl.where(mask, v - mean, 0.0)
        mean += gap / read
        m2 += gap * (v - mean)
    count = tl.maximum((end - begin - lane + BLOCK - 1) // BLOCK, 0).to(tl.float32)[:, None]
    mean_c, m2_c, _ = _merge_lanes(mean, m2, tl.broadcast_to(count, [BLOCK, BLOCK_C]), 0)
    out = group * C + channel
    if PARTS == 1:
        tl.store(mean_ptr + out, mean_c, valid)
        tl.store(var_ptr + out, m2_c / ROWS, valid)
    else:
        apart = groups * C
        tl.store(parts_ptr + part * apart + out, mean_c, valid)
        tl.store(parts_ptr + (PARTS + part) * apart + out, m2_c, valid)
        tl.debug_barrier()  # all of this program's parts are written before it is counted as done
        before = tl.atomic_add(done_ptr + group * tl.num_programs(0) + block, 1, sem="acq_rel")
        if before == PARTS - 1:
            which = tl.arange(0, MERGED)
            mean_c = tl.zeros([BLOCK_C], tl.float32)
            m2_c = tl.zeros([BLOCK_C], tl.float32)
            merged = tl.zeros([BLOCK_C], tl.float32)
            for first in range(0, PARTS, MERGED):
                number = first + which
                size = tl.minimum(tl.maximum(ROWS - number * share, 0), share).to(tl.float32)
                filled = (number < PARTS)[:, None] & valid[None, :]
                from_part = (number * apart)[:, None] + out[None, :]
                means = tl.load(parts_ptr + from_part, filled, 0.0)
                m2s = tl.load(parts_ptr + PARTS * apart + from_part, filled, 0.0)
                size = tl.where(filled, tl.broadcast_to(size[:, None], [MERGED, BLOCK_C]), 0.0)
                more, more_m2, count_c = _merge_lanes(means, m2s, size, 0)
                count_c = tl.maximum(count_c, 1.0)  # of a channel that is not valid
                gap_c = more - mean_c
                total = merged + count_c
                mean_c += gap_c * (count_c / total)
                m2_c += more_m2 + gap_c * gap_c * (merged * count_c / total)
                merged = total
            tl.store(mean_ptr + out, mean_c, valid)
            tl.store(var_ptr + out, m2_c / ROWS, valid)
            tl.store(done_ptr + group * tl.num_programs(0) + block, 0)  # ready for the next launch


@sizes_at_run_time("ROWS", "C_VECTORS", "S_VECTORS", "RECTIFY")
def _backward_kernel(
    x_ptr,
    gy_ptr,
    gx_ptr,
    scale_ptr,
    shift_ptr,
    offset_ptr,
    slope_ptr,
    mean_ptr,
    ROWS,
    C_VECTORS,
    S_VECTORS,
    RECTIFY,
    VECTOR: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    PER_IMAGE: tl.constexpr,
    ACT: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
):
    """gx = scale gy act'(scale x + shift) + offset + slope (x - mean) on a tile of BLOCK rows of WIDE neighbours.

    Rows are planes of S pixels, or, interleaved, pixels of C channels. ACT 0: no gy, the affine part alone.
    offset, slope, mean: (C,), or (N, C) if PER_IMAGE. A row is a number of vectors of VECTOR values.
    """
    C = C_VECTORS * VECTOR if INTERLEAVED else C_VECTORS
    S = S_VECTORS if INTERLEAVED else S_VECTORS * VECTOR
    WIDTH = C if INTERLEAVED else S
    row = (tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK))[:, None]
    column = (tl.program_id(1) * WIDE + tl.arange(0, WIDE))[None, :]
    mask = (row < ROWS) & (column < WIDTH)
    if INTERLEAVED:
        channel, inside = column, column < C
        moment, measured = (row // S * C + column, mask) if PER_IMAGE else (column, column < C)
    else:
        channel, inside = row % C, row < ROWS
        moment, measured = (row if PER_IMAGE else channel), row < ROWS
    at = row * WIDTH + column
    v = tl.load(x_ptr + at, mask, 0.0).to(tl.float32)
    g = tl.load(offset_ptr + moment, measured, 0.0) + tl.load(slope_ptr + moment, measured, 0.0) * (
        v - tl.load(mean_ptr + moment, measured, 0.0)
    )
    if ACT > 0:
        k = tl.load(scale_ptr + channel, inside, 0.0)
        gy = tl.load(gy_ptr + at, mask, 0.0).to(tl.float32)
        g += k * _pull_back(gy, v * k + tl.load(shift_ptr + channel, inside, 0.0), RECTIFY, ACT)
    tl.store(gx_ptr + at, g.to(gx_ptr.dtype.element_ty), mask)


@jit
def _grouped_kernel(table_ptr, mean_ptr, var_ptr, x_type: tl.constexpr, BLOCK: tl.constexpr):
    """Moments of channel program_id(0) of layer program_id(1). table: (layers, 8) int64: address, N*S, S, C, the
    strides of n, c, s merged as (image, channel, pixel), and where the layer's channels begin in mean and var."""
    entry = table_ptr + tl.program_id(1) * 8
    x_ptr = tl.load(entry).to(tl.pointer_type(x_type))
    rows, S, C = tl.load(entry + 1), tl.load(entry + 2), tl.load(entry + 3)
    image_stride, channel_stride, pixel_stride = (
        tl.load(entry + 4),
        tl.load(entry + 5),
        tl.load(entry + 6),
    )
    channel = tl.program_id(0).to(tl.int64)
    if channel < C:
        lane = tl.arange(0, BLOCK)
        mean = tl.zeros([BLOCK], tl.float32)
        m2 = tl.zeros([BLOCK], tl.float32)
        read = 0.0
        for start in range(0, rows, BLOCK):
            row = start + lane
            at = row // S * image_stride + channel * channel_stride + row % S * pixel_stride
            v = tl.load(x_ptr + at, row < rows, 0.0).to(tl.float32)
            read += 1.0
            gap = tl.where(row < rows, v - mean, 0.0)
            mean += gap / read
            m2 += gap * (v - mean)
        count = tl.maximum((rows - lane + BLOCK - 1) // BLOCK, 0).to(tl.float32)
        mean_c, m2_c, _ = _merge_lanes(mean, m2, count, 0)
        out = tl.load(entry + 7) + channel
        tl.store(mean_ptr + out, mean_c)
        tl.store(var_ptr + out, m2_c / rows)


def measure(
    x, mean, var, per_image: bool, scale=None, shift=None, activation: str = "measure", y=None
) -> None:
    """Write the moments of x: (N, C, *), dense, to mean and var, and act(scale x + shift) to y unless "measure"."""
    n, c = x.shape[:2]
    s, groups = x.numel() // (n * c), n if per_image else 1
    interleaved, rows = not x.is_contiguous() or s == 1, n * s // groups

    tile = tiles.measure_tile(c, s, interleaved, x.element_size())
    blocks = triton.cdiv(c, tile.columns)
    parts = max(1, min(triton.cdiv(rows, 4 * tile.rows), PROGRAMS // (blocks * groups), MOST_PARTS))
    scratch = x.new_empty((2, parts, groups, c), dtype=torch.float32) if parts > 1 else mean
    with on_device(x):
        _measure_kernel[(blocks, parts, groups)](
            x,
            x if y is None else y,
            mean if scale is None else scale,
            mean if shift is None else shift,
            mean,
            var,
            scratch,
            _counters(x.device) if parts > 1 else mean.view(torch.int32),
            rows if interleaved else rows // tile.vector,
            parts,
            *tiles.in_vectors(c, s, interleaved, tile.vector),
            int(activation == "relu"),
            tile.vector,
            interleaved,
            ACTIVATIONS[activation],
            tile.rows,
            tile.columns,
            MERGED,
            num_warps=tile.warps,
        )


_kept_counters: dict[tuple[torch.device, int], Tensor] = {}


def _counters(device: torch.device) -> Tensor:
    """Zeros that a launch counts finished programs in and leaves as zeros: one set for each stream, never cleared.

    A launch that is captured into a CUDA graph gets its own, which live and die with the graph's memory.
    """
    if device.type != "cuda":
        return torch.zeros(PROGRAMS, dtype=torch.int32, device=device)
    if torch.cuda.is_current_stream_capturing():
        return torch.zeros(PROGRAMS, dtype=torch.int32, device=device)
    key = device, torch.cuda.current_stream(device).cuda_stream
    if key not in _kept_counters:
        _kept_counters[key] = torch.zeros(PROGRAMS, dtype=torch.int32, device=device)
    return _kept_counters[key]


def backward(
    x, gy, scale, shift, activation: str, offset, slope, mean, gx, per_image: bool
) -> None:
    """Write the gradient of `measure` to gx; x, gy, gx share one dense layout. gy None: the moments' part alone."""
    n, c = x.shape[:2]
    s = x.numel() // (n * c)
    interleaved = not x.is_contiguous() or s == 1
    rows, width = (n * s, c) if interleaved else (n * c, s)

    tile = tiles.backward_tile(width, x.element_size())
    with on_device(x):
        _backward_kernel[(triton.cdiv(rows, tile.rows), triton.cdiv(width, tile.columns))](
            x,
            x if gy is None else gy,
            gx,
            mean if scale is None else scale,
            mean if shift is None else shift,
            offset,
            slope,
            mean,
            rows,
            *tiles.in_vectors(c, s, interleaved, tile.vector),
            int(activation == "relu"),
            tile.vector,
            interleaved,
            per_image,
            0 if gy is None else ACTIVATIONS[activation],
            tile.rows,
            tile.columns,
            num_warps=tile.warps,
        )


def measure_grouped(xs: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """(mean, var) of each of many dense tensors of one dtype and device, in one launch."""
    table, channels = [], [x.shape[1] for x in xs]
    begin = 0
    for x in xs:
        n, c = x.shape[:2]
        s = x.numel() // (n * c)
        planar = x.is_contiguous()
        table.append(
            (x.data_ptr(), n * s, s, c, c * s, s if planar else 1, 1 if planar else c, begin)
        )
        begin += c
    mean, var = xs[0].new_empty((2, begin), dtype=torch.float32).unbind()
    device_table = torch.tensor(table, dtype=torch.int64).to(xs[0].device, non_blocking=True)
    kind = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}[
        xs[0].dtype
    ]
    with on_device(xs[0]):
        _grouped_kernel[(max(channels), len(xs))](device_table, mean, var, kind, 512, num_warps=4)
    return list(zip(mean.split(channels), var.split(channels), strict=True))


def on_device(x: Tensor):
    """Launch on the device of x, which need not be the current one."""
    return torch.cuda.device(x.device) if not INTERPRETED else torch.no_grad()
