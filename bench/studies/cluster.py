"""What many workers cost: the driver alone at 256 of them, finishing a million images, and Ray beside processes.

    python bench/studies cluster                        all of them; the last needs two quiet cores
    python bench/studies cluster --only simulation      or finish, sleep, calls, ray
    python bench/studies cluster --smoke                all but Ray, small, kept nowhere

simulation: workers in simulated time, with a share of them lost in an hour; the driver is the one that runs use, and
its CPU time is measured. finish: rows of noise with a thousand logits, written as workers write them, and the peak
memory of a process that completes them. sleep: Ray's workers whose parts are half a second of sleep, so that what else
passes is the driver's and Ray's. calls: Ray's workers whose parts take no time. ray: CPU seconds of the same parts by
as many processes as workers, each with its share, and by Ray's workers, in turn: so both have the same neighbours.
"""

import argparse
import json
import math
import multiprocessing
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from result_files import RESULTS, environment, hardware, read_result, write_result
from simulated_pool import SimulatedPool

from engine.cluster.driver import Driver
from engine.cluster.ray_pool import RayPool
from engine.cluster.runner import RayRunner
from engine.datasets.parts import Division
from engine.datasets.shared import SharedDataset
from engine.methods.base import MixedGroups
from engine.request import ClassifierSource, Execution, Request
from engine.runners.share import ShareRunner
from engine.settings import Sampling
from engine.settings.cluster import Cluster
from engine.settings.methods import DDIS
from engine.types import ImageKey, Sample
from studies.options import several

LASTS = "minutes"
RESULT = RESULTS / "cluster.json"
CLASSES, LOST_AN_HOUR, PART_SECONDS, SPREAD = 1000, 0.05, 60.0, 0.15
"""Of the simulation: classes, share of the workers that are lost in an hour, seconds of a part, their spread."""
START_SECONDS = 60.0
PARTS = ("simulation", "finish", "sleep", "calls", "ray")
FINISHED = (100_000, 1_000_000)
SLEEP_SECONDS = 0.5
REPEATS = 5
LEFT_OUT = 2
"""The first parts of each process and worker, which load the models."""


def simulate(images: int, workers: int, seed: int = 0) -> dict[str, Any]:
    """A run of the driver in simulated time. ideal: work over workers, with no start, no loss and no tail."""
    division = Division.of(len(MixedGroups(tuple(range(CLASSES)), images // CLASSES, 28)))
    rng = random.Random(seed)
    seconds = [PART_SECONDS * rng.lognormvariate(0, SPREAD) for _ in range(division.parts)]

    def dies(_: int, part: int) -> float | None:
        lost = rng.random() < 1 - math.exp(math.log(1 - LOST_AN_HOUR) * seconds[part] / 3600)
        return rng.random() if lost else None

    pool = SimulatedPool(
        division.parts, lambda _, part: seconds[part], START_SECONDS, lambda _: "", dies
    )
    driver = Driver(pool, workers, lambda hello: hello["missing"], clock=pool.clock)
    began = time.process_time()
    made = sum(1 for _ in driver.parts())
    cpu = time.process_time() - began
    assert made == division.parts
    ideal = sum(seconds) / workers
    return {
        "images": images,
        "workers": workers,
        "parts": division.parts,
        "hours": pool.now / 3600,
        "of_ideal": ideal / pool.now,
        "workers_lost": driver.lost,
        "parts_given": len(pool.given),
        "driver_cpu_seconds": cpu,
        "parts_a_cpu_second": made / cpu,
    }


def synthetic(place: Path, images: int) -> None:
    """A data set in parts whose images are noise of 8 px, with CLASSES logits each."""
    groups = MixedGroups(tuple(range(CLASSES)), images // CLASSES, 28)
    labels = {number: f"class {number}" for number in range(CLASSES)}
    kind = {"canary": "0" * 12}
    made = {"request": {"seed": 0}, "models": {}}
    dataset = SharedDataset(place, made, labels, Division.of(len(groups)), kind)
    pictures = torch.rand(28, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    logits = torch.randn(28, CLASSES, generator=torch.Generator().manual_seed(1))

    def sample(row: int, key: ImageKey) -> Sample:
        return Sample(
            key=key,
            label=labels[key.class_index],
            seed=0,
            prompt=f"a photo of class {key.class_index}",
            token="",
            image=pictures[row % 28],
            logits=logits[row % 28].roll(key.index),
            l_bn=1.0,
            confidence=0.5,
            group="",
        )

    for part in dataset.missing():
        keys = [key for group in dataset.division.groups_of(part) for key in groups[group]]
        dataset.write(part, [sample(row, key) for row, key in enumerate(keys)])


def finished(images: int) -> dict[str, Any]:
    """Peak memory and time of `ddis finish` on a synthetic data set, its imports included."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "set"
        synthetic(place, images)
        command = [sys.executable, "-m", "engine", "finish", str(place), "--json"]
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, _peak_mb(process.pid))
            time.sleep(0.02)
        seconds = time.perf_counter() - began
        assert process.stdout is not None
        said = process.stdout.read()
    return {
        "images": json.loads(said)["images"],
        "parts": json.loads(said)["parts"],
        "classes": CLASSES,
        "seconds": seconds,
        "peak_mb": peak,
    }


def _peak_mb(pid: int) -> float:
    """The most memory that a process had so far; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return max((int(line.split()[1]) / 1024 for line in lines if "VmHWM" in line), default=0.0)


def sleeper(seconds: float) -> type:
    """A worker whose parts are sleep; a class that Ray sends to its processes by value."""

    class Sleeper:
        def __init__(self, threads: int) -> None:
            pass

        def hello(self) -> None:
            pass

        def make(self, _: int) -> None:
            if seconds:
                time.sleep(seconds)

    return Sleeper


def asleep(workers: int, parts: int = 800) -> dict[str, Any]:
    """The share of their time that Ray's workers sleep, from when the last of them began to when one has no more."""
    pool = RayPool(Cluster(ray="local", workers=workers), sleeper(SLEEP_SECONDS), {})
    try:
        driver = Driver(pool, workers, lambda _: range(parts))
        began, made = 0.0, 0
        for _ in driver.parts():
            working = [one.part for one in driver.assignments.values() if one.part is not None]
            if len(working) < workers and began:
                break
            if began:
                made += 1
            elif len(working) == workers:
                began = time.monotonic()
        seconds = time.monotonic() - began
    finally:
        pool.close()
    return {
        "workers": workers,
        "parts": made,
        "part_seconds": SLEEP_SECONDS,
        "efficiency": made * SLEEP_SECONDS / (workers * seconds),
    }


def called(workers: int, parts: int = 3000) -> dict[str, Any]:
    """How many parts that take no time the driver gives out through Ray, a second of its own process's CPU time."""
    pool = RayPool(Cluster(ray="local", workers=workers), sleeper(0), {})
    try:
        made = Driver(pool, workers, lambda _: range(parts)).parts()
        next(made)
        began, busy = time.monotonic(), time.process_time()
        count = sum(1 for _ in made)
        seconds, busy = time.monotonic() - began, time.process_time() - busy
    finally:
        pool.close()
    return {
        "workers": workers,
        "parts": count,
        "parts_a_second": count / seconds,
        "parts_a_cpu_second": count / busy,
    }


def on_ray(workers: int, repeats: int) -> dict[str, Any]:
    """CPU seconds of the same parts by processes and by Ray's workers in turn; what they differ by, all in all."""
    runs = [_processes_and_ray(workers) for _ in range(repeats)]
    processes, ray = (sum(run[of] for run in runs) for of in ("processes", "ray"))
    return {
        "workers": workers,
        "parts": runs[0]["parts"],
        "process_cpu_seconds": [run["processes"] for run in runs],
        "ray_cpu_seconds": [run["ray"] for run in runs],
        "overhead": ray / processes - 1,
    }


def _processes_and_ray(workers: int) -> dict[str, Any]:
    """CPU seconds of each, without what loading takes: the first parts are left out of both."""
    request = Request(
        classifier=ClassifierSource(source="embedded:cartoon"),
        method=DDIS(sampling=replace(Sampling(), batch=4)),
        images_per_class=8,
    )
    first = LEFT_OUT * workers
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        found["parts"], found["processes"] = _by_shares(Path(folder) / "shares", request, workers)
        cluster = Cluster(ray="local", workers=workers)
        runner = RayRunner(Path(folder) / "ray", Execution(device="cpu", cluster=cluster))
        parts = runner.parts(request)
        for _ in range(first):
            next(parts)
        before = _cpu_seconds()
        made = first
        for _ in parts:
            made += 1
            if made == found["parts"]:
                found["ray"] = _cpu_seconds() - before
        assert made == found["parts"]
    return found


def _by_shares(out: Path, request: Request, workers: int) -> tuple[int, float]:
    """How many parts so many processes make, and their CPU seconds."""
    context = multiprocessing.get_context("spawn")
    ready, found = context.Barrier(workers), context.Queue()
    processes = [
        context.Process(
            target=_share, args=(out, request, f"{number + 1}/{workers}", ready, found), daemon=True
        )
        for number in range(workers)
    ]
    for process in processes:
        process.start()
    each = [found.get(timeout=900) for _ in processes]
    return sum(parts for parts, _ in each), sum(seconds for _, seconds in each)


def _share(out: Path, request: Request, share: str, ready: Any, found: Any) -> None:
    """A process of `_by_shares`: puts its number of parts and its CPU seconds into `found`."""
    torch.set_num_threads(1)
    parts = ShareRunner(out, Execution(device="cpu", share=share)).parts(request)
    for _ in range(LEFT_OUT):
        next(parts)
    ready.wait(timeout=300)
    began = time.process_time()
    found.put((LEFT_OUT + sum(1 for _ in parts), time.process_time() - began))


def _cpu_seconds() -> float:
    """Of this process and all that it started: the driver, Ray's processes, the workers."""
    this = psutil.Process()
    times = [process.cpu_times() for process in (this, *this.children(recursive=True))]
    return float(sum(time.user + time.system for time in times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    several(parser, "--only", PARTS)
    parser.add_argument(
        "--images", nargs="+", type=int, default=FINISHED, help="sizes of the data sets to finish"
    )
    parser.add_argument(
        "--repeats", type=int, default=REPEATS, help="runs of each, processes and Ray"
    )
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    if chosen.smoke:
        print(json.dumps([simulate(100_000, 16), finished(CLASSES)], indent=1))
    else:
        measure(chosen.only, chosen.out, chosen.images, chosen.repeats)


def measure(
    parts: Sequence[str], out: Path, images: Sequence[int] = FINISHED, repeats: int = REPEATS
) -> None:
    """Measure some parts and write them beside those that the file has."""
    result = {
        **read_result(out),
        "environment": environment("cpu"),
        "hardware": hardware("cpu"),
        "settings": {
            "classes": CLASSES,
            "lost_an_hour": LOST_AN_HOUR,
            "part_seconds": PART_SECONDS,
            "spread": SPREAD,
            "start_seconds": START_SECONDS,
        },
    }
    works: dict[str, Callable[[], Any]] = {
        "simulation": lambda: [simulate(1_000_000, workers) for workers in (8, 64, 256)],
        "finish": lambda: [finished(number) for number in images],
        "sleep": lambda: [asleep(workers) for workers in (2, 8)],
        "calls": lambda: [called(workers) for workers in (2, 16)],
        "ray": lambda: [on_ray(workers, repeats) for workers in (1, 2)],
    }
    for part in parts:
        result[part] = works[part]()
        write_result(out, result)
        print(json.dumps({part: result[part]}, indent=1))


if __name__ == "__main__":
    main()
