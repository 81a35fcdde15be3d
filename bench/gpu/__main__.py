"""Measure a CUDA device: correctness, speed and memory, in parts that each have a process and a time limit.

    python bench/gpu --out FOLDER                      all parts, the most important first
    python bench/gpu --out FOLDER --only step memory   some of them
    python bench/gpu --out FOLDER --device cpu         a dry run: the same code on the CPU, at tiny sizes

The folder gets results.json (every number, rewritten after every row), summary.txt (at most 30 lines) and log.txt.
"""

import argparse
import sys
from pathlib import Path


def main() -> int:
    sys.path[0] = str(
        Path(__file__).resolve().parents[1]
    )  # else `networks` would be gpu/networks.py
    from gpu.runner import PARTS, absent, limits, run_parts

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument(
        "--only", nargs="+", choices=list(PARTS), help="these parts, in their usual order"
    )
    parser.add_argument("--total", type=float, default=1800, help="seconds for all parts together")
    parser.add_argument(
        "--add",
        action="store_true",
        help="keep what an earlier call on this machine found in the other parts",
    )
    parser.add_argument(
        "--wheels",
        type=Path,
        help="folder with a subfolder of unpacked packages for each part that needs its own",
    )
    chosen = parser.parse_args()
    if said := absent(chosen.device):
        parser.error(said)
    return run_parts(
        chosen.out,
        chosen.device,
        chosen.only,
        chosen.total,
        chosen.add,
        chosen.wheels,
        limits(chosen.device),
    )


if __name__ == "__main__":
    sys.exit(main())
