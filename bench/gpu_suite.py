"""One command for a CUDA machine: are the Triton kernels right there, how fast, and does what is planned fit?

    python bench/gpu_suite.py               writes bench/results/kernels_cuda.json and .md
    python bench/gpu_suite.py --quick       the headline shapes, one budget

Checks every op against float64, in every dtype and layout, with every tile that may be chosen, and stops if one is
wrong; measures copy bandwidth; then runs bench/sweep.py on the GPU, with a whole network, and compiles the kernels for
four architectures (bench/gpu_code.py). Last, Stable Diffusion 2.1's architecture in budgets of memory
(bench/gpu_memory.py). What is done is written at once.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from ddis_kernels import (
    AlignmentTarget,
    Moments,
    _triton_tiles,
    alignment_loss,
    bn_act_moments,
    bn_act_moments_reference,
    channel_moments,
    channel_moments_grouped,
    channel_moments_reference,
    merge_moments,
    merge_moments_reference,
)
from ddis_kernels.alignment_coefficients import alignment_loss_reference
from sweep import LAYOUTS, RESULTS, compiled_code, run, write_results
from timing import best_us

CHECKED = [
    (1, 1, 1, 1),
    (3, 5, 7, 7),
    (2, 33, 14, 14),
    (16, 64, 56, 56),
    (1, 512, 7, 7),
    (2, 3, 129, 127),
    (32, 24, 56, 56),
]
EVERY_TILE = [(2, 33, 14, 14), (16, 64, 56, 56)]
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
NEAR_ZERO = 1e-3
"""ReLU's gradient is not compared where rounding may decide on which side of zero its argument is."""
READS_AND_WRITES = {"channel_moments": 1, "bn_none_moments": 5, "bn_relu_moments": 5}
"""How many times an op, with its gradient if it has one here, moves the bytes of its input."""
LARGE_NBYTES = 100e6
"""More than a GPU's cache holds."""


def relative_error(got: torch.Tensor, exact: torch.Tensor) -> float:
    """Largest error over the largest value."""
    return ((got.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-12)).item()


def gradients(op, leaf: torch.Tensor, *arguments: object) -> list[torch.Tensor]:
    """What op gives, and the gradient of its weighted sum by leaf, the same weights for every dtype."""
    generator = torch.Generator(leaf.device).manual_seed(1)
    leaf = leaf.detach().requires_grad_()
    values = op(leaf, *arguments)
    half = [
        torch.randn(v.shape, generator=generator, device=leaf.device).bfloat16() for v in values
    ]
    (gx,) = torch.autograd.grad(
        list(values), leaf, [w.to(v.dtype) for w, v in zip(half, values, strict=True)]
    )
    return [*(v.detach() for v in values), gx]


def layer_error(x: torch.Tensor, activation: str, per_image: bool) -> float:
    """Worst relative error of `bn_act_moments` and `channel_moments`, with their gradients, against float64."""
    k, b = (torch.randn(x.shape[1], device=x.device) for _ in range(2))
    got = gradients(bn_act_moments, x, k, b, activation, per_image)
    exact = gradients(bn_act_moments_reference, x.double(), k, b, activation, per_image)
    if activation == "relu":
        over_channels = (1, -1, *[1] * (x.dim() - 2))
        z = x.double() * k.double().view(over_channels) + b.double().view(over_channels)
        got[-1] = torch.where(z.abs() < NEAR_ZERO, exact[-1], got[-1].double())
    got += gradients(channel_moments, x, per_image)
    exact += gradients(channel_moments_reference, x.double(), per_image)
    return max(relative_error(g, e) for g, e in zip(got, exact, strict=True))


@contextmanager
def tile_number(number: int) -> Iterator[None]:
    """Launch every kernel with that one of its candidates, or the last."""
    before = _triton_tiles.choose_tile
    _triton_tiles.choose_tile = lambda kind, x, tiles, launch: tiles[min(number, len(tiles) - 1)]
    try:
        yield
    finally:
        _triton_tiles.choose_tile = before


def check(
    device: str, shapes: Sequence[tuple[int, ...]], every_tile: Sequence[tuple[int, ...]]
) -> dict[str, float]:
    """Worst relative error of each dtype; raises SystemExit at the first that is too large."""
    worst: dict[str, float] = {}
    cases = [(shape, None) for shape in shapes] + [
        (shape, n) for shape in every_tile for n in range(4)
    ]
    for dtype, allowed in TOLERANCE.items():
        for shape, tile in cases:
            for layout, memory_format in LAYOUTS.items():
                for activation, per_image in (("none", False), ("relu", False), ("silu", True)):
                    x = (
                        (torch.randn(shape, device=device) + 1)
                        .to(dtype)
                        .to(memory_format=memory_format)
                    )
                    if tile is None:
                        error = layer_error(x, activation, per_image)
                    else:
                        with tile_number(tile):
                            error = layer_error(x, activation, per_image)
                    worst[str(dtype)] = max(worst.get(str(dtype), 0.0), error)
                    if not error <= allowed:
                        raise SystemExit(
                            f"wrong: {shape} {dtype} {layout} {activation} tile {tile}: "
                            f"error {error:.1e} > {allowed:.0e}"
                        )
    return worst


def check_small_ops(device: str, shapes: Sequence[tuple[int, ...]]) -> None:
    """The grouped launch, merging and the loss against plain torch; raises AssertionError where they differ."""
    for dtype in TOLERANCE:
        for memory_format in LAYOUTS.values():
            xs = [
                torch.randn(shape, device=device).to(dtype).to(memory_format=memory_format)
                for shape in shapes
            ]
            measured = channel_moments_grouped(xs)
            for got, x in zip(measured, xs, strict=True):
                expected = channel_moments_reference(x)
                torch.testing.assert_close(tuple(got), tuple(expected), rtol=1e-4, atol=1e-5)
                merged = merge_moments(got, Moments(got.mean + 1, got.var), 3, 5)
                expected = merge_moments_reference(got, Moments(got.mean + 1, got.var), 3, 5)
                torch.testing.assert_close(tuple(merged), tuple(expected), rtol=1e-4, atol=1e-5)
    stored = [Moments(m.mean + 0.5, m.var * 2 + 0.1) for m in measured]
    for norm in ("l2", "l2_squared"):
        target = AlignmentTarget.of(stored, norm=norm)
        flat = [torch.cat([getattr(m, part) for m in measured])[None] for part in ("mean", "var")]
        arguments = target.mean, target.var, target.weights, target.splits, target.squared
        expected_loss = alignment_loss_reference(*flat, *arguments)[0]
        torch.testing.assert_close(
            alignment_loss(measured, target), expected_loss, rtol=1e-4, atol=1e-5
        )


def shares_of_copy(rows: list[dict], copy: float) -> dict[str, float]:
    """Bandwidth of each op at large shapes, over that of a copy: at most about 1."""
    shares = {}
    for row in rows:
        size = {"float32": 4, "float16": 2}[row["dtype"]]
        nbytes = size * torch.Size(row["shape"]).numel()
        if nbytes > LARGE_NBYTES:
            name = f"{row['op']} {tuple(row['shape'])} {row['dtype']} {row['layout']}"
            gb_per_s = READS_AND_WRITES[row["op"]] * nbytes / row["us"]["ours"] / 1e3
            shares[name] = round(gb_per_s / copy, 3)
    return shares


def copy_gb_per_s(nbytes: int = 1 << 30) -> float:
    """Bytes read and written per second by a device-to-device copy."""
    source = torch.empty(nbytes, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    us = best_us({"copy": lambda: target.copy_(source)}, "cuda", 1.0)["copy"]
    return 2 * nbytes / us / 1e3


def measure_memory(file: Path, quick: bool) -> None:
    """Let bench/gpu_memory.py put its rows into a result, in a process of its own: a cap is a process's."""
    torch.cuda.empty_cache()
    command = [sys.executable, Path(__file__).with_name("gpu_memory.py"), "--into", file]
    subprocess.run([*command, *(["--quick"] if quick else [])], check=True)


def main(quick: bool) -> None:
    if not torch.cuda.is_available():
        raise SystemExit(
            "no CUDA device here, so GPU speed is not measured: run this on a CUDA machine."
        )
    torch.manual_seed(0)
    check_small_ops("cuda", CHECKED)
    worst, copy = check("cuda", CHECKED, EVERY_TILE), copy_gb_per_s()
    result = {"worst_relative_error": worst, "copy_gb_per_s": round(copy, 1)}
    print(result, flush=True)
    result |= run("cuda", quick, 0.4)
    result["share_of_copy"] = shares_of_copy(result["rows"], copy)
    result["tiles"] = {
        str(kind): tuple(tile) for kind, tile in _triton_tiles.choose_tile.chosen.items()
    }
    write_results(RESULTS, "kernels_cuda", result)  # before compiling, which takes minutes
    result["code"] = compiled_code()
    write_results(RESULTS, "kernels_cuda", result)
    file = RESULTS / "kernels_cuda.json"
    measure_memory(file, quick)
    write_results(RESULTS, "kernels_cuda", json.loads(file.read_text()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    main(parser.parse_args().quick)
