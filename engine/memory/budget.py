"""Budgets of memory: what a user writes, what a device has."""

import os
import re

import torch

from engine.errors import ConfigError, EngineWarning

UNITS = {"B": 1}
UNITS |= {f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", 1)}
UNITS |= {f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", 1)}
AUTO = "auto"
MOST_BYTES = 2**50


class BudgetError(ConfigError):
    """A memory budget makes no sense, or cannot be met."""


class MemoryWarning(EngineWarning):
    """A run has less memory than was asked for, or goes on with smaller parts than planned."""


def parse_budget(budget: str | int, device: torch.device) -> int:
    """Bytes of '12GB', '11.5GiB', '800 MB', a number of bytes, or 'auto': what `device` has free.

    GB are powers of 1000, GiB of 1024; lower case is as good. Raises BudgetError.
    """
    if isinstance(budget, str) and budget.strip().lower() == AUTO:
        return free_bytes(device)
    found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*([A-Za-z]*)", str(budget).strip())
    number, unit = found.groups() if found else ("", "?")
    by_name = UNITS | {name.lower(): size for name, size in UNITS.items()}
    if unit and unit not in by_name:
        raise BudgetError(
            f"memory is {budget!r}, expected a number with one of the units {', '.join(UNITS)}, such as '12GB' "
            "or '11.5GiB', a number of bytes, or 'auto': write it so."
        )
    nbytes = int(float(number) * by_name[unit or "B"])
    if nbytes < 1:
        raise BudgetError(
            f"memory is {budget!r}, expected more than nothing: give what the run may use."
        )
    if nbytes > MOST_BYTES:
        raise BudgetError(
            f"memory is {budget!r}, expected at most {in_words(MOST_BYTES)}, more than any machine has: give what the "
            "run may use."
        )
    return nbytes


def free_bytes(device: torch.device) -> int:
    """What a run may still take on a device: free memory and what torch holds unused; on the CPU available memory."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    try:
        with open("/proc/meminfo") as lines:
            facts = dict(line.split(":", 1) for line in lines)
        return int(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def device_bytes(device: torch.device) -> int | None:
    """All that a device has; None for one that is not in this machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1] if torch.cuda.is_available() else None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def in_words(nbytes: int) -> str:
    """Bytes as a budget that `parse_budget` reads back, rounded up: 3141592653 is '3.15GB'."""
    unit, size = next(
        (u, s)
        for u, s in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3), ("B", 1))
        if nbytes >= s or s == 1
    )
    hundredths = -(-nbytes * 100 // size)
    return f"{hundredths / 100:.2f}{unit}" if size > 1 else f"{nbytes}B"
