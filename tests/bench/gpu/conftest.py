"""The modules of bench/gpu, and the device of a dry run."""

from collections.abc import Callable
from types import ModuleType

import pytest


@pytest.fixture
def gpu(bench_script) -> Callable[[str], ModuleType]:
    """gpu("memory"): a module of bench/gpu."""
    return lambda name: bench_script(f"gpu.{name}")


@pytest.fixture
def card(gpu):
    """What a dry run measures: the CPU."""
    return gpu("card").Card("cpu")
