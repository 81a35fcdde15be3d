"""The memory that was really used."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from engine.memory.count import counting


@dataclass
class Measured:
    """The highest memory of a block, in bytes, in addition to what was there when it began; 0 until it ends."""

    peak_bytes: int = 0


def peak_bytes(device: torch.device) -> int:
    """The highest memory of this process so far: reserved on a CUDA device, resident in main memory elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def measuring(device: torch.device) -> Iterator[Measured]:
    """Measure a block: on CUDA what its allocator reserved, elsewhere the tensors that were alive (`count`), which
    slows the block down by some microseconds an operator."""
    measured = Measured()
    if device.type != "cuda":
        with counting() as count:
            yield measured
        measured.peak_bytes = count.peak
        return
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(device)
    torch.cuda.reset_peak_memory_stats(device)
    yield measured
    torch.cuda.synchronize(device)
    measured.peak_bytes = torch.cuda.max_memory_reserved(device) - before
