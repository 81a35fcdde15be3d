"""Clocks and meters of the benchmarks. Contenders take turns, so that a neighbour's burst hits all or none."""

import time
from pathlib import Path
from statistics import median

import torch
from contenders import Run


def seconds(run: Run, device: str) -> float:
    """Wall time of one call, with the device's work in it."""
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def best_us(runs: dict[str, Run], device: str, budget_s: float) -> dict[str, float]:
    """Microseconds of the fastest call of each contender, which take turns for about budget_s seconds in all.

    A call shorter than 200 us is repeated and averaged, so that the clock's own cost vanishes.
    """
    first = {name: [seconds(run, device) for _ in range(3)][-1] for name, run in runs.items()}
    repeats = {name: max(1, min(50, round(2e-4 / max(first[name], 1e-7)))) for name in runs}
    best, end = dict.fromkeys(runs, float("inf")), time.perf_counter() + budget_s
    for turn in range(1000):
        if turn >= 5 and time.perf_counter() > end:
            break
        for name, run in runs.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                run()
            if device == "cuda":
                torch.cuda.synchronize()
            best[name] = min(best[name], (time.perf_counter() - start) / repeats[name])
    return {name: round(value * 1e6, 2) for name, value in best.items()}


def median_ratios(
    runs: dict[str, Run], baseline: str, device: str, rounds: int
) -> dict[str, dict[str, float]]:
    """Median seconds of each contender (`s`), and median over the rounds of its time over the baseline's (`ratio`)."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            taken = seconds(run, device)
            if turn:  # the first one warms up
                times[name].append(taken)
    return {
        name: {
            "s": round(median(taken), 6),
            "ratio": round(median(t / b for t, b in zip(taken, times[baseline], strict=True)), 4),
        }
        for name, taken in times.items()
    }


def peak_bytes(run: Run, device: str) -> int | None:
    """Most bytes allocated on the GPU during a call, beyond what was there."""
    if device != "cuda":
        return None
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() - before


def resident_peak_bytes(run: Run) -> int | None:
    """Most main memory resident during a call, beyond what was there; None where the system does not tell (no Linux).

    Only a process that has done little before tells the truth: freed memory that it still holds counts as there.
    """
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not clear.exists():
        return None

    def kib(field: str) -> int:
        return next(
            int(line.split()[1])
            for line in status.read_text().splitlines()
            if line.startswith(field)
        )

    before = kib("VmRSS")
    clear.write_text("5")  # resets the high-water mark
    run()
    return (kib("VmHWM") - before) * 1024
