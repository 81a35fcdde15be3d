"""The memory that was really used."""

import resource
import sys

import torch


def peak_bytes(device: torch.device) -> int:
    """The highest memory of this process so far: reserved on a CUDA device, resident in main memory elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
