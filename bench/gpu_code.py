"""Compile the Triton kernels ahead of time, without a GPU, and read what came out: registers, spills, vector loads.

    python bench/gpu_code.py            a table of the default tiles; with --every-tile, of all that may be chosen
    python bench/gpu_code.py --json     the same as JSON; with --few, one case of each branch

Runs in a process of its own without TRITON_INTERPRET, which decides when a kernel is decorated.
"""

import argparse
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

os.environ.pop("TRITON_INTERPRET", None)

import triton
from ddis_kernels import _triton_moments as kernels
from ddis_kernels._triton_tiles import Tile, backward_tiles, measure_tiles
from ddis_kernels.alignment_coefficients import _alignment_kernel
from ddis_kernels.merge_moments import _merge_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

ARCHITECTURES = (80, 86, 89, 90)
TYPES = {"fp32": 4, "fp16": 2, "bf16": 2}
BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class Case(NamedTuple):
    """A kernel with every argument: a pointer's or integer's type, or a constexpr's value."""

    name: str
    kernel: object
    arguments: dict[str, object]
    warps: int = 4


class Code(NamedTuple):
    """What one kernel became on one architecture. stack and local are bytes of spilled values.

    loads, stores: bits of a global access in the PTX -> number of such instructions. tile_bits_per_thread: how much of
    x one step of the loop reads, in a kernel that measures.
    """

    case: str
    architecture: int
    registers: int
    stack: int
    local: int
    loads: dict[int, int]
    stores: dict[int, int]
    tile_bits_per_thread: int


def measure_cases(
    element: str, c: int, s: int, interleaved: bool, act: str, parts: int
) -> list[Case]:
    """The forward kernel with each tile that may be chosen."""
    layout = "channels_last" if interleaved else "contiguous"
    pointers = dict.fromkeys(("x_ptr", "y_ptr"), f"*{element}")
    pointers |= dict.fromkeys(
        ("scale_ptr", "shift_ptr", "mean_ptr", "var_ptr", "parts_ptr"), "*fp32"
    )
    found = []
    for tile in measure_tiles(16 * s, c, interleaved, TYPES[element]):
        constants = {
            "C": c,
            "S": s,
            "INTERLEAVED": interleaved,
            "ACT": kernels.ACTIVATIONS[act],
            "BLOCK": tile.rows,
            "BLOCK_C": tile.columns,
            "MAX_PARTS": parts,
        }
        arguments = {**pointers, "done_ptr": "*i32", "ROWS": "i32", "PARTS": "i32", **constants}
        name = f"forward {act} {element} {layout} C={c} S={s} {_said(tile)}"
        found.append(Case(name, kernels._measure_kernel, arguments, tile.warps))
    return found


def backward_cases(element: str, c: int, s: int, interleaved: bool, act: str) -> list[Case]:
    """The backward kernel with each tile that may be chosen."""
    layout = "channels_last" if interleaved else "contiguous"
    pointers = dict.fromkeys(("x_ptr", "gy_ptr", "gx_ptr"), f"*{element}")
    pointers |= dict.fromkeys(
        ("scale_ptr", "shift_ptr", "offset_ptr", "slope_ptr", "mean_ptr"), "*fp32"
    )
    found = []
    for tile in backward_tiles(c if interleaved else s, TYPES[element]):
        constants = {
            "C": c,
            "S": s,
            "INTERLEAVED": interleaved,
            "PER_IMAGE": False,
            "ACT": kernels.ACTIVATIONS[act] if act != "measure" else 0,
            "BLOCK": tile.rows,
            "WIDE": tile.columns,
        }
        name = f"backward {act} {element} {layout} C={c} S={s} {_said(tile)}"
        found.append(
            Case(
                name, kernels._backward_kernel, {**pointers, "ROWS": "i32", **constants}, tile.warps
            )
        )
    return found


def _said(tile: Tile) -> str:
    return f"{tile.rows}x{tile.columns}/{tile.warps}"


def cases(few: bool, every_tile: bool = True) -> list[Case]:
    found = []
    for element in ("fp16",) if few else TYPES:
        for interleaved in (False, True):
            for act in ("silu", "measure") if few else ("silu", "relu", "measure"):
                shape = element, 256, 3136, interleaved, act
                # Of few cases silu has every tile, as it needs the most registers.
                tiles = 1 if not every_tile or (few and act == "measure") else None
                found += (
                    measure_cases(*shape, kernels.MOST_PARTS)[:tiles]
                    + backward_cases(*shape)[:tiles]
                )
    found.append(measure_cases("fp32", 512, 49, False, "relu", parts=1)[0])
    found.append(backward_cases("fp32", 512, 49, False, "relu")[0])
    table = {
        "table_ptr": "*i64",
        "mean_ptr": "*fp32",
        "var_ptr": "*fp32",
        "x_type": triton.language.float32,
        "BLOCK": 512,
    }
    found.append(Case("grouped fp32", kernels._grouped_kernel, table))
    pointers = ("mean", "var", "stored_mean", "stored_var", "weights", "terms", "dmean", "dvar")
    align = {f"{name}_ptr": "*fp32" for name in pointers}
    align |= {"splits_ptr": "*i64", "width": "i32", "SQUARED": False, "BLOCK": 512}
    found.append(Case("alignment", _alignment_kernel, align))
    merge = {
        f"{name}_ptr": "*fp32" for name in ("mean_a", "var_a", "mean_b", "var_b", "mean", "var")
    }
    found.append(
        Case("merge", _merge_kernel, {**merge, "share": "fp32", "n": "i32", "BLOCK": 1024})
    )
    return found


def _widths(ptx: str, instruction: str) -> dict[int, int]:
    """Bits per access of each `ld.global` or `st.global` in PTX -> number of such instructions."""
    counts: dict[int, int] = {}
    for vector, bits in re.findall(
        rf"{instruction}\.global(?:\.[A-Za-z0-9_:]+)*?(?:\.v(\d))?\.[bf](\d+)", ptx
    ):
        width = int(vector or 1) * int(bits)
        counts[width] = counts.get(width, 0) + 1
    return dict(sorted(counts.items()))


def compiled(case: Case, architecture: int) -> Code:
    """Compile one case to machine code, every pointer and size that is 16-aligned in practice marked so."""
    names = case.kernel.arg_names
    is_type = {name: isinstance(case.arguments[name], str) for name in names}
    signature = {name: case.arguments[name] if is_type[name] else "constexpr" for name in names}
    constants = {(i,): case.arguments[name] for i, name in enumerate(names) if not is_type[name]}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if str(signature[name]).startswith("*") or name == "ROWS"
    }
    source = ASTSource(case.kernel, signature, constants, aligned)
    result = triton.compile(
        source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": case.warps}
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(result.asm["cubin"])
        file.flush()
        dump = [BINARIES / "cuobjdump", "--dump-resource-usage", file.name]
        usage = subprocess.run(dump, capture_output=True, text=True, check=True).stdout
    registers, stack, local = (
        int(re.search(rf"{what}:(\d+)", usage)[1]) for what in ("REG", "STACK", "LOCAL")
    )
    ptx = result.asm["ptx"]
    tile = case.arguments.get("BLOCK", 0) * case.arguments.get("BLOCK_C", 0) // (32 * case.warps)
    bits = tile * 8 * TYPES.get(str(case.arguments.get("x_ptr")).lstrip("*"), 0)
    return Code(
        case.name,
        architecture,
        registers,
        stack,
        local,
        _widths(ptx, "ld"),
        _widths(ptx, "st"),
        bits,
    )


def report(few: bool = False, every_tile: bool = True) -> list[Code]:
    found = cases(few, every_tile)
    return [compiled(case, architecture) for case in found for architecture in ARCHITECTURES]


def markdown(codes: list[Code]) -> str:
    lines = [
        "| kernel | sm | registers | spilled bytes | widest load | widest store |",
        "|---|---|---|---|---|---|",
    ]
    for code in codes:
        widest = (f"{max(counts, default=0)} bit" for counts in (code.loads, code.stores))
        spilled = code.stack + code.local
        lines.append(
            f"| {code.case} | {code.architecture} | {code.registers} | {spilled} | {' | '.join(widest)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--few", action="store_true")
    parser.add_argument("--every-tile", action="store_true")
    options = parser.parse_args()
    codes = report(options.few, options.few or options.every_tile)
    print(json.dumps([code._asdict() for code in codes]) if options.json else markdown(codes))
