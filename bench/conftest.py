"""Benchmarks import their neighbours, run with two threads, and say where and with what they ran."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(min(2, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def timed(benchmark):
    """timed(run): benchmark a function of no arguments, with the environment in its extra_info."""
    from sweep import environment
    from timing import peak_bytes

    device = "cuda" if torch.cuda.is_available() else "cpu"

    def measure(run):
        def synchronised():
            run()
            if device == "cuda":
                torch.cuda.synchronize()

        benchmark.extra_info.update(environment(device), peak_bytes=peak_bytes(run, device))
        benchmark(synchronised)

    return measure
