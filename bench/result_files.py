"""Where results are kept, how they are written, and what each says of the machine and the software behind it."""

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ddis_kernels import _backend

from engine.datasets.run_record import versions
from engine.files import write_whole

RESULTS = Path(__file__).parent / "results"


def write_result(file: Path, result: Mapping[str, Any]) -> None:
    """Write a result as JSON, whole or not at all; missing folders are made."""
    write_whole(file, json.dumps(result, indent=1).encode() + b"\n")


def read_result(file: Path) -> dict[str, Any]:
    """The result in a file; {} where there is none yet."""
    return json.loads(file.read_text()) if file.exists() else {}


def environment(device: object) -> dict[str, Any]:
    """The device, the threads of the CPU, and the versions of the packages that a result may depend on."""
    return {"device": str(device), "threads": torch.get_num_threads(), "versions": versions()}


def hardware(device: str) -> dict[str, object]:
    """The chip behind 'cpu' or 'cuda', and what else the time of a kernel depends on."""
    return {
        "device": chip(device),
        "instruction_set": _backend.cpu.instruction_set() if _backend.cpu else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def chip(device: str) -> str:
    """The name of the GPU or the CPU."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    if (cpu_info := Path("/proc/cpuinfo")).exists():
        for line in cpu_info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()
