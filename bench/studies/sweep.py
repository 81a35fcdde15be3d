"""Time every kernel on every BatchNorm shape of five networks, and whole networks.

Writes bench/results/kernels.json, from which `make tables` makes kernels.md.

    python bench/studies sweep                 all shapes, batch 1, 8, 32, both layouts: some minutes
    python bench/studies sweep --quick         representative shapes: two, on a GPU three
    python bench/studies sweep --only channel_moments networks   measure these again; keep the rest of the result
    python bench/studies sweep --device cuda   the same on a GPU

Contenders take turns, and the best of each counts. Run it on a quiet machine.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from contenders import SHAPES, layer_contenders, moments_contenders
from networks import LAYOUTS, measured_networks
from result_files import RESULTS, hardware, read_result, write_result
from timing import best_us, peak_bytes

LASTS = "an hour"
HEADLINE = [(16, 64, 56), (16, 512, 7)]
OPS = ("channel_moments", "bn_none_moments", "bn_relu_moments")
LARGE = [(64, 64, 112)]
"""On a GPU, whose cache holds the others: 103 MB in float16."""


def sweep(quick: bool, device: str) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """(network, (N, C, side)) of every case; the headline shapes first."""
    yield from (("headline", shape) for shape in HEADLINE + (LARGE if device == "cuda" else []))
    if not quick:
        for network, shapes in SHAPES.items():
            yield from ((network, (n, c, side)) for c, side in shapes for n in (1, 8, 32))


def measured(
    op: str,
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    layout: str,
    device: str,
    inductor: bool,
    budget_s: float,
):
    """One row of the result: the op's contenders on one feature map."""
    n, c, side = shape
    x = torch.randn(n, c, side, side, device=device).to(dtype).to(memory_format=LAYOUTS[layout])
    if op == "channel_moments":
        runs = moments_contenders(x, inductor)
    else:
        runs = layer_contenders(x, op.removeprefix("bn_").removesuffix("_moments"), inductor)
    return {
        "op": op,
        "shape": [n, c, side, side],
        "dtype": str(dtype).removeprefix("torch."),
        "layout": layout,
        "us": best_us(runs, device, budget_s),
        "peak_bytes": peak_bytes(runs["ours"], device),
    }


def compiled_code() -> list[dict] | None:
    """What gpu_code.py finds, in a process of its own; None without Triton."""
    if find_spec("triton") is None:
        return None
    command = [sys.executable, Path(__file__).parent, "gpu_code", "--json"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def measured_rows(
    device: str, quick: bool, budget_s: float, wanted: Sequence[str]
) -> list[dict[str, object]]:
    rows = []
    for network, shape in sweep(quick, device):
        headline = network == "headline"
        ops = [op for op in wanted if headline or op != "bn_none_moments"]
        dtypes = (torch.float32,) if device == "cpu" else (torch.float32, torch.float16)
        for op in ops:
            for layout in LAYOUTS:
                for dtype in dtypes:
                    # Compiling takes seconds a shape, so only the headline shapes are compared with inductor.
                    row = measured(
                        op,
                        shape,
                        dtype,
                        layout,
                        device,
                        headline,
                        budget_s * (4 if headline else 1),
                    )
                    rows.append({"network": network, **row})
                    print(network, op, shape, layout, row["us"], flush=True)
    return rows


def run(device: str, quick: bool, budget_s: float) -> dict[str, object]:
    rows = measured_rows(device, quick, budget_s, OPS)
    return {
        "settings": {"quick": quick, "budget_s": budget_s},
        "environment": hardware(device),
        "rows": rows,
        "networks": measured_networks(device),
    }


def renewed(
    file: Path, device: str, quick: bool, budget_s: float, parts: Sequence[str]
) -> dict[str, object]:
    """A result with some ops or the networks measured again, on the same machine and with the same versions."""
    kept, now = read_result(file), hardware(device)
    if kept.get("environment") != now:
        raise SystemExit(
            f"{file} comes from {kept.get('environment')}, this is {now}: measure all of it."
        )
    ops = [part for part in parts if part != "networks"]
    fresh = {case_of(row): row for row in measured_rows(device, quick, budget_s, ops)}
    networks = measured_networks(device) if "networks" in parts else kept["networks"]
    rows = {case_of(row): row for row in kept["rows"]} | fresh
    return {**kept, "rows": list(rows.values()), "networks": networks}


def case_of(row: dict[str, object]) -> tuple[object, ...]:
    return row["network"], row["op"], *row["shape"], row["dtype"], row["layout"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--device",
        default="cpu",
        choices=["cpu", "cuda"],
        help="where the tensors are (default: cpu)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="representative shapes alone: two, on a GPU three"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=min(2, torch.get_num_threads()),
        help="of the CPU (default: 2)",
    )
    parser.add_argument(
        "--budget-s", type=float, default=0.4, help="seconds for all contenders of one case"
    )
    parser.add_argument(
        "--only", nargs="+", choices=[*OPS, "networks"], help="renew these parts of a result"
    )
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="folder of the result (default: bench/results)"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    file = options.out / ("kernels.json" if options.device == "cpu" else "kernels_cuda.json")
    how = options.device, options.quick, options.budget_s
    if options.only:
        result = renewed(file, *how, options.only)
    else:
        result = run(*how)
        write_result(file, result)  # before compiling, which takes minutes
        result["code"] = compiled_code()
    write_result(file, result)
