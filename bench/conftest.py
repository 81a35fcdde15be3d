"""Benchmarks run with two threads, and say where and with what they ran, and beside what."""

from collections.abc import Callable
from statistics import median

import pytest
import torch
from contenders import Run
from result_files import environment, hardware
from timing import peak_bytes, seconds

ROUNDS = 5
"""Of runs that take seconds; pytest-benchmark chooses those of kernels."""


@pytest.fixture(autouse=True)
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(min(2, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def tiny(request: pytest.FixtureRequest) -> bool:
    """Whether benchmarks only have to run, as in `make bench-smoke`: nothing is timed, so sizes do not matter."""
    return request.config.getoption("benchmark_disable")


@pytest.fixture
def timed(benchmark, device: str) -> Callable[[Run], None]:
    """timed(run): benchmark a function of no arguments, with the environment in its extra_info."""

    def measure(run: Run) -> None:
        benchmark.extra_info.update(hardware(device), peak_bytes=peak_bytes(run, device))
        benchmark(_synchronised(run, device))

    return measure


@pytest.fixture
def against(benchmark, device: str) -> Callable[[str, Run, Run], list[float]]:
    """against("plain", plain, run): benchmark `run`, each of its rounds behind one of the baseline.

    extra_info gets the baseline's name and median seconds, and `over_baseline`, the median over the rounds of the
    time of `run` over the baseline's. Returns the median seconds of `run` and of the baseline, and nothing of either
    where nothing is timed.
    """

    def measure(name: str, baseline: Run, run: Run) -> list[float]:
        taken: list[float] = []
        benchmark.extra_info.update(environment(device), chip=hardware(device)["device"])
        benchmark.pedantic(
            _synchronised(run, device),
            setup=lambda: taken.append(seconds(baseline, device)),
            rounds=ROUNDS,
            warmup_rounds=1,
        )
        if benchmark.disabled:
            return []
        own, other = benchmark.stats.stats.data, taken[1:]  # the first warmed up
        benchmark.extra_info.update(
            baseline=name,
            baseline_s=median(other),
            over_baseline=median(a / b for a, b in zip(own, other, strict=True)),
        )
        return [median(own), median(other)]

    return measure


def _synchronised(run: Run, device: str) -> Callable[[], None]:
    """A run, with the device's work in it."""

    def whole() -> None:
        run()
        if device == "cuda":
            torch.cuda.synchronize()

    return whole
