"""Ctrl-C, output that nobody reads, clocks that are set back, and memory that runs out."""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from engine.apps.cli.registry import COMMANDS
from engine.datasets.manifest import read_manifest
from engine.memory.micro_batch import MicroBatches
from engine.tokens.files import read_tokens
from studies.fault_kinds.trials import CLASSIFIER, Count, Place, as_json, ended, wrongs
from studies.fault_kinds.writing import fills_up

INTERRUPTED, CLOSED_PIPE = 130, 141
RESULTS_OF = ("2 images in ", "the classifier recognises ")
"""What `generate` has said already when its page is being written."""
OUT_OF_MEMORY: tuple[BaseException, ...] = (
    MemoryError("no memory"),
    torch.OutOfMemoryError("CUDA out of memory"),
)


def interrupted(place: Place, name: str, times: int) -> Count:
    """Send SIGINT to real processes of `ddis` at random moments, half of them while it imports."""
    count = Count(f"`{name}`, a process of its own, half of them during its imports")
    expected, rng = place.undisturbed(name), random.Random(name)
    began, ends = _moments(place, name)
    number = 0
    while count.row()["times"] < times:
        room = place.room()
        importing = number % 2 == 0
        number += 1
        moment = rng.uniform(0.2, began) if importing else rng.uniform(began, ends)
        process = _process(place.commands(room)[name][0])
        time.sleep(moment)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)[1].splitlines()
        if process.returncode == 0:  # it was quicker than the signal
            continue
        wrong = [] if process.returncode == INTERRUPTED else [f"code {process.returncode}"]
        spoken = [line for line in said if line]
        odd = [line for line in spoken[:-1] if not line.startswith(RESULTS_OF)]
        if odd or not spoken or not spoken[-1].startswith("interrupted: "):
            wrong.append(f"after {moment:.1f} s: {spoken[-3:]}")
        if (again := ended(place.commands(room)[name])).code:
            wrong.append(f"again: code {again.code}, {again.said[-3:]}")
        wrong += wrongs(name, room, expected)
        count.add("in an import" if importing else "in the run", wrong)
    return count


def _process(words: list[str]) -> "subprocess.Popen[str]":
    """A process of `ddis` that Ctrl-C reaches, also where this one runs in the background."""
    return subprocess.Popen(
        [sys.executable, "-m", "engine", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def _moments(place: Place, name: str) -> tuple[float, float]:
    """Seconds until a process writes for the first time, and until it ends."""
    room = place.room()
    start = time.monotonic()
    process = _process(place.commands(room)[name][0])
    while process.poll() is None and not any(room.iterdir()):
        time.sleep(0.02)
    began = time.monotonic() - start
    process.communicate()
    return began, time.monotonic() - start


def unread(place: Place) -> Count:
    """Every command with a closed pipe for its output: its help, and its result as JSON."""
    count = Count("the help of every command; `--json` of those that write, `plan` and `doctor`")
    tried = {f"{name} --help": [[*name.split(), "--help"]] for name in COMMANDS}
    printing = {name: place.commands(place.room())[name] for name in place.commands(place.folder)}
    images = f"{place.folder / 'set'}"
    printing |= {
        "plan": [["plan", *CLASSIFIER, "--prior", "embedded"]],
        "doctor": [["doctor", "embedded:cartoon", "--images", images, "--device", "cpu"]],
    }
    tried |= {
        f"{name} --json": [*made[:-1], [*made[-1], "--json"]] for name, made in printing.items()
    }
    for name, (*first, last) in tried.items():
        reading, writing = os.pipe()
        os.close(reading)
        if first and ended(first).code:
            raise SystemExit(f"{name} did not end well")
        found = ended([last], stdout=writing)
        silent = all(line.startswith("warning: ") for line in found.said)
        wrong = [] if found.code == CLOSED_PIPE and silent else [f"{found.code}, {found.said[-2:]}"]
        count.add("exit code 141, silent", [f"{name}: {line}" for line in wrong])
    return count


def clock_set_back(place: Place, name: str, times: int) -> Count:
    """Cut a run, date its files at random, and continue it with a clock that goes back at each look."""
    count = Count(
        f"`{name}`, continued with a clock that goes back, files dated up to 3 days ahead"
    )
    expected, rng = place.undisturbed(name), random.Random(name)
    for _ in range(times):
        room = place.room()
        ended(place.commands(room)[name], fills_up(rng.randint(1, 12)))
        for path in room.rglob("*"):
            dated = time.time() + rng.uniform(-3, 3) * 24 * 3600
            os.utime(path, (dated, dated))
        hours = rng.uniform(0.01, 48)

        def back(hours: float = hours) -> None:
            looks, now = itertools.count(), time.time()
            time.time = lambda: now - 3600 * hours * next(looks)
            time.time_ns = lambda: int(1e9 * time.time())

        found = ended(place.commands(room)[name], back)
        wrong = [f"{found.code}, {found.said[-2:]}"] if found.code else []
        count.add("the bytes of an undisturbed run", [*wrong, *wrongs(name, room, expected)])
    return count


def runs_out(phase: str, error: BaseException, log: Path) -> Callable[[], None]:
    """The first work of a phase on several images raises the error.

    log: gets a line on each work on several images, with its phase and their number.
    """
    attempt, failed = MicroBatches.attempt, list[int]()

    def attempted(parts: MicroBatches, name: str, images: int, work: Any) -> Any:
        def failing(size: int) -> Any:
            if size > 1:
                with log.open("a") as lines:
                    lines.write(f"{name} {size}\n")
            if name == phase and size > 1 and not failed:
                failed.append(size)
                raise error
            return work(size)

        return attempt(parts, name, images, failing)

    def begin() -> None:
        MicroBatches.attempt = attempted  # type: ignore[method-assign]

    return begin


def out_of_memory(place: Place, name: str) -> Count:
    """Let memory run out once in each phase of a run."""
    log = place.room() / "log"
    ended(place.commands(place.room())[name], runs_out("", MemoryError(), log))
    # The first number of each phase.
    sizes = {line.split()[0]: int(line.split()[1]) for line in log.read_text().splitlines()[::-1]}
    count = Count(f"`{name}`: {', '.join(sorted(sizes))}; two kinds of error")
    expected = place.undisturbed(name)
    for phase, error in itertools.product(sorted(sizes), OUT_OF_MEMORY):
        room = place.room()
        found = ended(place.commands(room)[name], runs_out(phase, error, log))
        if "share" in name:
            wrong = _refused(found.said, found.code)
            if (again := ended(place.commands(room)[name])).code:
                wrong.append(f"again: code {again.code}, {again.said[-3:]}")
            wrong += wrongs(name, room, expected)
        else:
            wrong = [f"code {found.code}, {found.said[-2:]}"] if found.code else []
            if f"memory ran out in phase {phase!r}" not in "".join(found.said):
                wrong.append("no warning")
            if not wrong and (size := _recorded(room, phase)) != sizes[phase] // 2:
                wrong.append(f"{size} images at once by the record, after {sizes[phase]} failed")
        way = "refused; the same command ends well" if "share" in name else "went on, and recorded"
        count.add(way, [f"{phase}, {type(error).__name__}: {line}" for line in wrong])
    return count


def _refused(said: list[str], code: int) -> list[str]:
    """What is wrong with how a share says that its memory is too small."""
    last = said[-1] if said else ""
    told = (
        code == 2 and last.startswith("error: memory ran out in phase") and "lan for less" in last
    )
    return [] if told else [f"code {code}, {said[-2:]}"]


def _recorded(room: Path, phase: str) -> int | None:
    """How many images a phase took at once in the end, by the record of a run whose images are all there."""
    if (out := room / "out").is_dir():
        if len(list(read_manifest(out))) != 2:
            return None
        sizes: int = as_json(out / "run.json")["measured"]["micro_batches"][-1]["sizes"][phase]
        return sizes
    *_, last = read_tokens(room / "out.safetensors").kinds
    learned: int = last["micro_batches"][phase]
    return learned
