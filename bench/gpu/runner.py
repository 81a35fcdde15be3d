"""Run the parts one after the other, each in a process of its own, and merge what they wrote.

A process is forked from this one, which has imported the libraries but never touches CUDA, so a part starts at once.
Where that cannot work (a library initialised CUDA at import, or `env` fails) processes start afresh instead.
"""

import gc
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from gpu.summary import failures, summary

PARTS: dict[str, int] = {
    "env": 60,
    "check": 120,
    "step": 150,
    "memory": 150,
    "networks": 60,
    "bandwidth": 45,
    "attention": 40,
    "cat": 60,
    "graphs": 60,
    "equal": 60,
    "train64": 40,
    "throughput": 90,
    "inductor": 70,
}
"""Seconds that each part may take. The most important come first: what the time runs out for is at the end."""
PATIENCE = 5
"""How much longer a part of a dry run may take: on a CPU that others use too, seconds say little."""
OWN_WHEELS = {"attention": "xformers", "cat": "bitsandbytes"}
"""Packages that one part alone may import. diffusers imports them wherever they are on the path, so a build that does
not fit the machine's torch would break every part."""
STARTING = 30
"""Seconds that a process which starts afresh may take to import the libraries."""
CLOSING = 8
"""Seconds at the end of the total that are kept for merging."""
LEAST = 15
"""With fewer seconds left, no part is started."""


@dataclass(frozen=True)
class Place:
    """Where parts write: `<part>.json` and `<part>.log` in `work`, all of it merged into `out`."""

    out: Path
    work: Path

    def results_of(self, part: str) -> Path:
        return self.work / f"{part}.json"

    def log_of(self, part: str) -> Path:
        return self.work / f"{part}.log"


def run_parts(
    out: Path,
    device: str,
    only: Sequence[str] | None = None,
    total: float = 1800,
    add: bool = False,
    wheels: Path | None = None,
    parts: Mapping[str, int] = PARTS,
) -> int:
    """Run the parts and return the exit code: 0 if each of them ended well and, in a dry run, no row failed.

    Args:
        out: folder of results.json, summary.txt and log.txt.
        device: 'cuda', or 'cpu' for a dry run.
        only: names of the parts to run; None for all.
        total: seconds for all of them together.
        add: whether to keep the results that other parts have from an earlier call on this machine.
        wheels: folder that holds a subfolder `xformers`, `bitsandbytes` of unpacked packages.
        parts: seconds that each part may take, by the name of its module in this package.
    """
    began = time.monotonic()
    place = Place(out.resolve(), Path(tempfile.gettempdir()) / f"ddis-gpu-{device}")
    if place.work.exists() and not add:
        shutil.rmtree(place.work)
    place.work.mkdir(exist_ok=True)
    place.out.mkdir(parents=True, exist_ok=True)
    method, outcomes = _start_method(parts), {}
    for name in parts:
        if only and name not in only:
            continue
        left = total - CLOSING - (time.monotonic() - began)
        if left < LEAST:
            outcomes[name] = "no time left"
            continue
        own = None if wheels is None else wheels / OWN_WHEELS.get(name, "none")
        own = own if own is not None and own.is_dir() else None
        run = _Run(name, device, place, own, outcomes)
        outcomes[name] = run("spawn" if own else method, min(parts[name], left))
        if name == "env" and outcomes[name].startswith("failed") and method == "fork":
            method = "spawn"
            outcomes[name] = run(method, min(parts[name], left))
        print(f"{name}: {outcomes[name]}", flush=True)
        if name == "env" and outcomes[name].startswith("failed"):
            print(place.log_of(name).read_text()[-4000:])
            break  # nothing else can work
    outcomes["total"] = f"{time.monotonic() - began:.0f} s"
    results = merge(place, outcomes, device)
    print((place.out / "summary.txt").read_text())
    ended_badly = [how for name, how in outcomes.items() if name != "total" and how[:2] != "ok"]
    # On CUDA a row may fail for reasons that are results: memory that ran out under a cap, an absent package.
    failed = list(failures(results)) if device == "cpu" else []
    return int(bool(ended_badly or failed))


def limits(device: str) -> dict[str, int]:
    """Seconds that each part may take on a device."""
    return {name: seconds * (PATIENCE if device == "cpu" else 1) for name, seconds in PARTS.items()}


def absent(device: str) -> str:
    """Why nothing can be measured on this device, or "" where torch finds it."""
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = (
        "1"  # asking for a device does not initialise CUDA then
    )
    import torch

    if device == "cpu" or torch.cuda.is_available():
        return ""
    return (
        f"torch {torch.__version__} finds no CUDA device, expected one: run on a machine with an NVIDIA GPU, its "
        "driver and a CUDA build of torch, or pass --device cpu for a dry run."
    )


def _start_method(parts: Mapping[str, int]) -> str:
    """Import what the parts import; 'fork' if that left CUDA alone, else 'spawn'."""
    for name in parts:
        import_module(f"gpu.{name}")
    gc.freeze()  # what was imported stays: collecting would look at all of it, in every part
    import torch

    return "spawn" if torch.cuda.is_initialized() else "fork"


@dataclass(frozen=True)
class _Run:
    """One part's run; calling it returns how that ended. outcomes: of the parts before, for the merged results."""

    name: str
    device: str
    place: Place
    own_wheels: Path | None
    outcomes: dict[str, str]

    def __call__(self, method: str, limit: float) -> str:
        began, seen = time.monotonic(), 0.0
        limit += STARTING if method == "spawn" else 0
        context = multiprocessing.get_context(method)
        arguments = (self.name, self.device, self.place, self.own_wheels, method)
        process = context.Process(target=_part_process, args=arguments)
        process.start()
        while process.is_alive() and time.monotonic() - began < limit:
            process.join(1)
            file = self.place.results_of(self.name)
            if file.exists() and file.stat().st_mtime != seen:
                seen = file.stat().st_mtime
                merge(self.place, {**self.outcomes, self.name: "running"}, self.device)
        code = process.exitcode
        _end(process)
        took = f"{time.monotonic() - began:.0f} s"
        if code is None:
            return f"failed: cut off after {took}"
        return f"ok, {took}" if code == 0 else f"failed: exit code {code} after {took}"


def _part_process(
    name: str, device: str, place: Place, own_wheels: Path | None, method: str
) -> None:
    """The body of a part's process: its output goes to the part's log."""
    os.setpgid(0, 0)  # so that whatever the part starts can be ended with it
    log = os.open(place.log_of(name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    multiprocessing.set_start_method(method, force=True)  # for processes of its own
    if own_wheels is not None:
        sys.path.insert(0, str(own_wheels))
    try:
        import torch

        from gpu.card import Card

        if device == "cpu":
            torch.set_num_threads(1)  # a dry run's tensors are too small for more
        from gpu.record import Record

        import_module(f"gpu.{name}").measure(Record(place.results_of(name)), Card(device))
    except BaseException:
        traceback.print_exc()
        raise


def _end(process: multiprocessing.process.BaseProcess) -> None:
    """End a part and what it started, by its own process group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()  # it ended before it had a group
    process.join()


def merge(place: Place, outcomes: Mapping[str, str], device: str) -> dict[str, Any]:
    """Write results.json, summary.txt and log.txt from all that is there, and return the results."""
    from engine.files import write_whole

    found = {
        name: json.loads(place.results_of(name).read_text())
        for name in PARTS
        if place.results_of(name).exists()
    }
    results: dict[str, Any] = {"device": device, "parts": dict(outcomes), **found}
    logs = [
        f"===== {name}\n{place.log_of(name).read_text(errors='replace')[-1_000_000:]}"
        for name in PARTS
        if place.log_of(name).exists()
    ]
    write_whole(place.out / "results.json", json.dumps(results, indent=1).encode() + b"\n")
    write_whole(place.out / "summary.txt", summary(results).encode())
    write_whole(place.out / "log.txt", "\n".join(logs).encode())
    return results
