"""One command for a CUDA machine: are the Triton kernels right there, and how fast?

    python bench/gpu_suite.py               writes bench/results/kernels_cuda.json and .md
    python bench/gpu_suite.py --quick       the headline shapes only

Checks every op in every dtype and layout against float64 and stops if one is wrong; measures copy bandwidth; then runs
bench/sweep.py on the GPU, with a whole network, and compiles the kernels for four architectures (bench/gpu_code.py).
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from ddis_kernels import (
    bn_act_moments,
    bn_act_moments_reference,
    channel_moments_grouped,
    channel_moments_reference,
)
from sweep import LAYOUTS, RESULTS, run
from tables import kernels_table
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
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def relative_error(got: torch.Tensor, exact: torch.Tensor) -> float:
    """Largest error over the largest value."""
    return ((got.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-12)).item()


def outputs(op, x: torch.Tensor, activation: str, per_image: bool) -> list[torch.Tensor]:
    """y, mean, var and the gradient of their weighted sum, the same weights for every dtype."""
    generator = torch.Generator("cuda").manual_seed(1)
    leaf = x.detach().requires_grad_()
    k, b = (torch.randn(x.shape[1], generator=generator, device="cuda") for _ in range(2))
    values = op(leaf, k, b, activation, per_image)
    weights = [
        torch.randn(v.shape, generator=generator, device="cuda").to(x.dtype).to(v.dtype) for v in values
    ]
    (gx,) = torch.autograd.grad(list(values), leaf, weights)
    return [*(v.detach() for v in values), gx]


def check() -> dict[str, float]:
    """Worst relative error of each dtype; raises SystemExit at the first that is too large."""
    worst = {}
    for dtype, allowed in TOLERANCE.items():
        for shape in CHECKED:
            for layout, memory_format in LAYOUTS.items():
                for activation, per_image in (("none", False), ("relu", False), ("silu", True)):
                    x = (torch.randn(shape, device="cuda") + 1).to(dtype).to(memory_format=memory_format)
                    got = outputs(bn_act_moments, x, activation, per_image)
                    # With ReLU a value near zero may fall on either side: the reference then runs in float32.
                    wide = x.float() if activation == "relu" else x.double()
                    exact = outputs(bn_act_moments_reference, wide, activation, per_image)
                    error = max(relative_error(g, e.double()) for g, e in zip(got, exact, strict=True))
                    worst[str(dtype)] = max(worst.get(str(dtype), 0.0), error)
                    if not error <= allowed:
                        raise SystemExit(
                            f"wrong: {shape} {dtype} {layout} {activation}: error {error:.1e} > {allowed:.0e}"
                        )
    xs = [torch.randn(shape, device="cuda") for shape in CHECKED]
    for got, x in zip(channel_moments_grouped(xs), xs, strict=True):
        torch.testing.assert_close(tuple(got), tuple(channel_moments_reference(x)), rtol=1e-5, atol=1e-5)
    return worst


def copy_gb_per_s(nbytes: int = 1 << 30) -> float:
    """Bytes read and written per second by a device-to-device copy."""
    source = torch.empty(nbytes, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    us = best_us({"copy": lambda: target.copy_(source)}, "cuda", 1.0)["copy"]
    return 2 * nbytes / us / 1e3


def main(quick: bool) -> None:
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device here, so GPU speed is not measured: run this on a CUDA machine.")
    torch.manual_seed(0)
    result = {"worst_relative_error": check(), "copy_gb_per_s": round(copy_gb_per_s(), 1)}
    print(result, flush=True)
    result |= run("cuda", quick, 0.4)
    script = Path(__file__).with_name("gpu_code.py")
    codes = subprocess.run(
        [sys.executable, script, "--json"], capture_output=True, text=True, check=True
    ).stdout
    result["code"] = json.loads(codes)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "kernels_cuda.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "kernels_cuda.md").write_text(kernels_table(result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    main(parser.parse_args().quick)
