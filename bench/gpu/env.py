"""Versions, the device, and a first launch of a kernel. If this fails, nothing else can be measured."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch
from ddis_kernels import channel_moments, channel_moments_reference

from engine.datasets.run_record import versions
from gpu.card import Card
from gpu.record import Record

ALSO = ("triton", "accelerate", "numpy")
REPOSITORY = Path(__file__).resolve().parents[2]
COMMIT = REPOSITORY / ".gpu" / "commit"
"""Written by offline.sh, for a machine to which the history does not travel."""


def measure(record: Record, card: Card) -> None:
    record.put("commit", commit())
    record.put("versions", versions() | {name: version(name) for name in ALSO})
    record.put("device", described(card))
    x = torch.randn(8, 16, 32, 32, device=card.device, dtype=card.dtype)
    got, exact = channel_moments(x), channel_moments_reference(x.double())
    record.put("first_kernel_error", (got.mean.double() - exact.mean).abs().max().item())


def commit() -> str:
    """The commit that is measured, `-dirty` behind it where the tree has changes."""
    command = ["git", "-C", REPOSITORY, "describe", "--always", "--abbrev=12", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return done.stdout.strip()
    return COMMIT.read_text().strip() if COMMIT.exists() else "unknown"


def described(card: Card) -> dict[str, object]:
    """Name and size of the device, and what the driver says of it."""
    if not card.is_cuda:
        return {"name": platform.machine(), "threads": torch.get_num_threads()}
    facts = torch.cuda.get_device_properties(card.device)
    query = "--query-gpu=driver_version,clocks.sm,clocks.mem,power.limit"
    driver = subprocess.run(
        ["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return {
        "name": facts.name,
        "memory_bytes": facts.total_memory,
        "multiprocessors": facts.multi_processor_count,
        "capability": f"{facts.major}.{facts.minor}",
        "cuda": torch.version.cuda,
        "driver, clocks, power limit": driver.stdout.strip(),
    }
