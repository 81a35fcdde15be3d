"""Compile the Triton kernels ahead of time, without a GPU, and read what came out: registers, spills, vector loads.

    python bench/studies gpu_code            a table of every branch
    python bench/studies gpu_code --json     the same as JSON; with --few, in half precision alone
    python bench/studies gpu_code --count    how many kernels each network compiles

Runs in a process of its own without TRITON_INTERPRET, which decides when a kernel is decorated.
"""

import argparse
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

os.environ.pop("TRITON_INTERPRET", None)

import torch
import triton
from ddis_kernels import _triton_moments as kernels
from ddis_kernels._triton_tiles import Tile, backward_tile, measure_tile
from ddis_kernels.alignment_coefficients import _alignment_kernel
from ddis_kernels.merge_moments import _merge_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

LASTS = "minutes"
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


def measure_case(element: str, c: int, s: int, interleaved: bool, act: str) -> Case:
    """The forward kernel for maps of this layout and alignment."""
    pointers = dict.fromkeys(("x_ptr", "y_ptr"), f"*{element}")
    pointers |= dict.fromkeys(
        ("scale_ptr", "shift_ptr", "mean_ptr", "var_ptr", "parts_ptr"), "*fp32"
    )
    tile = measure_tile(c, s, interleaved, TYPES[element])
    arguments = {
        **pointers,
        "done_ptr": "*i32",
        **dict.fromkeys(("ROW_VECTORS", "PARTS", "C_VECTORS", "S_VECTORS", "RECTIFY"), "i32"),
        "VECTOR": tile.vector,
        "INTERLEAVED": interleaved,
        "ACT": kernels.ACTIVATIONS[act],
        "BLOCK": tile.rows,
        "BLOCK_C": tile.columns,
        "MERGED": kernels.MERGED,
    }
    name = f"forward {act} {element} {_said(interleaved, c, s, tile)}"
    return Case(name, kernels._measure_kernel, arguments, tile.warps)


def backward_case(element: str, c: int, s: int, interleaved: bool, act: str) -> Case:
    """The backward kernel for maps of this layout and alignment."""
    pointers = dict.fromkeys(("x_ptr", "gy_ptr", "gx_ptr"), f"*{element}")
    pointers |= dict.fromkeys(
        ("scale_ptr", "shift_ptr", "offset_ptr", "slope_ptr", "mean_ptr"), "*fp32"
    )
    tile = backward_tile(c if interleaved else s, TYPES[element])
    arguments = {
        **pointers,
        **dict.fromkeys(("ROWS", "C_VECTORS", "S_VECTORS", "RECTIFY"), "i32"),
        "VECTOR": tile.vector,
        "INTERLEAVED": interleaved,
        "PER_IMAGE": False,
        "ACT": kernels.ACTIVATIONS[act],
        "BLOCK": tile.rows,
        "WIDE": tile.columns,
    }
    name = f"backward {act} {element} {_said(interleaved, c, s, tile)}"
    return Case(name, kernels._backward_kernel, arguments, tile.warps)


def _said(interleaved: bool, c: int, s: int, tile: Tile) -> str:
    layout = "channels_last" if interleaved else "contiguous"
    return f"{layout} C={c} S={s} {tile.rows}x{tile.columns}/{tile.warps}"


def cases(few: bool) -> list[Case]:
    found = []
    for element in ("fp16",) if few else TYPES:
        for act in ("silu", "relu", "measure"):
            for interleaved, c, s in (
                (False, 256, 3136),
                (False, 1024, 196),
                (False, 512, 49),
                (True, 256, 3136),
                (True, 64, 12544),
                (True, 2048, 49),
            ):
                shape = element, c, s, interleaved, act
                found += [measure_case(*shape), backward_case(*shape)]
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
    """Compile one case to machine code, every pointer marked as aligned, which those of torch are."""
    names = case.kernel.arg_names
    is_type = {name: isinstance(case.arguments[name], str) for name in names}
    signature = {name: case.arguments[name] if is_type[name] else "constexpr" for name in names}
    constants = {(i,): case.arguments[name] for i, name in enumerate(names) if not is_type[name]}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if str(signature[name]).startswith("*")
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


def report(few: bool = False) -> list[Code]:
    return [compiled(case, architecture) for case in cases(few) for architecture in ARCHITECTURES]


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


NETWORKS = {
    "resnet18, 34": ((64, 112), (64, 56), (128, 28), (256, 14), (512, 7)),
    "resnet50": (
        *((64, 112), (64, 56), (256, 56), (128, 56), (128, 28), (512, 28)),
        *((256, 28), (256, 14), (1024, 14), (512, 14), (512, 7), (2048, 7)),
    ),
    "vgg16_bn": ((64, 224), (128, 112), (256, 56), (512, 28), (512, 14)),
}
"""(channels, side) of the maps that BatchNorm layers read, of images of 224 px."""


class Recorder:
    """Stands where a kernel stands and keeps what a launch would compile."""

    def __init__(self, kernel: object) -> None:
        self.kernel = kernel
        self.compiled: set[object] = set()

    def __getitem__(self, grid: object) -> "Recorder":
        return self

    def __call__(self, *arguments: object, num_warps: int) -> None:
        key: list[object] = [num_warps]
        for parameter, value in zip(self.kernel.params, arguments, strict=True):
            if parameter.is_constexpr:
                key.append(value)
            elif isinstance(value, torch.Tensor):
                key.append(value.dtype)
            else:
                assert parameter.do_not_specialize, f"{parameter.name} is compiled for its value"
        self.compiled.add(tuple(key))


def count_compilations(maps: Sequence[tuple[int, int]], batch: int, channels_last: bool) -> int:
    """Kernels that a network's guided pass compiles: each map forward and backward, with ReLU and without."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    recorders = {
        name: Recorder(getattr(kernels, name)) for name in ("_measure_kernel", "_backward_kernel")
    }
    with ExitStack() as patched:
        for name, recorder in {**recorders, "on_device": lambda x: nullcontext()}.items():
            patched.enter_context(patch.object(kernels, name, recorder))
        for c, side in maps:
            x = torch.empty(batch, c, side, side, device="meta", dtype=torch.float16)
            x = x.to(memory_format=memory_format)
            c_values = torch.empty(c, device="meta")
            for act in ("none", "relu"):
                kernels.measure(x, c_values, c_values, False, c_values, c_values, act, x)
                shared = c_values, c_values, act, c_values, c_values, c_values
                kernels.backward(x, x, *shared, x, False)
    alignment = 1  # all layers' gaps in one launch
    return alignment + sum(len(recorder.compiled) for recorder in recorders.values())


def counts() -> dict[str, int]:
    """The most kernels that any batch compiles, by network and layout."""
    return {
        f"{network}, {'channels_last' if last else 'contiguous'}": max(
            count_compilations(maps, batch, last) for batch in (1, 8, 32)
        )
        for network, maps in NETWORKS.items()
        for last in (False, True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--few", action="store_true")
    parser.add_argument("--count", action="store_true")
    options = parser.parse_args()
    if options.count:
        print(json.dumps(counts(), indent=1))
    else:
        codes = report(options.few)
        print(json.dumps([code._asdict() for code in codes]) if options.json else markdown(codes))
