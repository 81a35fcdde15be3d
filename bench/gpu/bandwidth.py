"""Bytes that each kernel must move per second, over those of a copy, and the host's time for a call.

A large map is more than a GPU's cache holds: in a smaller one reads may never reach its memory.
"""

import time
from functools import partial
from itertools import product
from typing import Any

import torch
from ddis_kernels import bn_act_moments, channel_moments
from networks import LAYOUTS
from torch import Tensor
from torch.nn.functional import batch_norm

from gpu.card import Card, Work
from gpu.record import Record

SHAPES = ((64, 64, 112, 112), (128, 256, 56, 56), (32, 256, 56, 56), (32, 512, 28, 28))
DTYPES = (torch.float16, torch.float32)
LARGE_BYTES = 100e6
COPIED_BYTES = 2**30


def measure(record: Record, card: Card) -> None:
    """Put `copy_gb_per_s`, a row for each map with `large`, and `host_us`."""
    copy = _copied_per_second(card)
    record.put("copy_gb_per_s", round(copy / 1e9, 1))
    for shape, dtype, layout in product(card.pick(SHAPES, ((1, 4, 8, 8),)), DTYPES, LAYOUTS):
        work = partial(_row, card, shape, dtype, layout, copy)
        record.attempt(f"{shape} {str(dtype).removeprefix('torch.')} {layout}", work)
    record.attempt("host_us", partial(_host, card))


def _copied_per_second(card: Card) -> float:
    """Bytes that a copy reads and writes."""
    source = torch.empty(card.pick(COPIED_BYTES, 2**20), dtype=torch.uint8, device=card.device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _time(card, lambda: target.copy_(source), calls=1)


def _time(card: Card, work: Work, calls: int = 10) -> float:
    """Seconds of a call: the GPU's own. Raises RuntimeError for work that cannot be captured."""
    found = card.gpu_seconds(work, calls=calls)
    if "not_captured" in found:
        raise RuntimeError(found["not_captured"])
    return float(found.get("gpu_s") or card.seconds(work))


def _row(
    card: Card, shape: tuple[int, ...], dtype: torch.dtype, layout: str, copy: float
) -> dict[str, Any]:
    """Microseconds of each op, and the bytes that it moves per second over a copy's (`share`)."""
    x = torch.randn(shape, device=card.device).to(dtype).to(memory_format=LAYOUTS[layout])
    x.requires_grad_()
    channels, still = shape[1], x.detach()
    mean, scale, shift, dmean, dvar = (
        torch.rand(channels, device=card.device) + 0.5 for _ in range(5)
    )
    dy = torch.randn_like(still)
    half = [values.to(dtype) for values in (mean, scale, scale, shift)]

    def both() -> Tensor:
        out = tuple(bn_act_moments(x, scale, shift, "relu"))
        return torch.autograd.grad(out, x, (dy, dmean, dvar))[0]

    # How often each moves the bytes of the map: ours reads x and writes y, and back reads x and dy and writes dx.
    runs: dict[str, tuple[int, Work]] = {
        "moments": (1, lambda: channel_moments(still)),
        "forward": (2, lambda: bn_act_moments(still, scale, shift, "relu")),
        "forward and backward": (5, both),
        "torch var_mean": (1, lambda: torch.var_mean(still, (0, 2, 3), correction=0)),
        "torch update_stats": (1, lambda: torch.batch_norm_update_stats(still, None, None, 0.1)),
        "torch batch_norm, relu": (4, lambda: batch_norm(still, *half, False, 0.0, 1e-5).relu_()),
        "torch relu": (2, lambda: still.relu()),
    }
    row: dict[str, Any] = {"large": still.nbytes > LARGE_BYTES}
    for name, (moves, run) in runs.items():
        seconds = _time(card, run)
        share = moves * still.nbytes / seconds / copy
        row[name] = {"us": round(1e6 * seconds, 2), "share": round(share, 3)}
    return row


def _host(card: Card) -> dict[str, float]:
    """Microseconds that the host takes to launch an op: on a map so small that the GPU waits for it."""
    x = torch.randn(2, 64, 7, 7, device=card.device, dtype=card.dtype, requires_grad=True)
    still, scale, shift = x.detach(), *(torch.rand(64, device=card.device) for _ in range(2))
    half = [values.to(card.dtype) for values in (shift, scale, scale, shift)]
    ones = torch.ones_like(still), torch.ones_like(scale), torch.ones_like(scale)

    def fused() -> None:
        torch.autograd.grad(tuple(bn_act_moments(x, scale, shift, "relu")), x, ones)

    def plain() -> None:
        torch.autograd.grad(batch_norm(x, *half, False, 0.0, 1e-5).relu(), x, ones[0])

    def each(work: Work, calls: int) -> float:
        for _ in range(calls // 10):
            work()
        card.synchronise()
        began = time.perf_counter()
        for _ in range(calls):
            work()
        return round(1e6 * (time.perf_counter() - began) / calls, 1)

    runs = {
        "moments": lambda: channel_moments(still),
        "fused forward": lambda: bn_act_moments(still, scale, shift, "relu"),
        "fused forward and backward": fused,
        "plain forward and backward": plain,
    }
    return {name: each(run, card.pick(300, 10)) for name, run in runs.items()}
