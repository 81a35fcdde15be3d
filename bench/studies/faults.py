"""Every fault but SIGKILL, counted on tiny models: full disks, two at once, Ctrl-C, lost memory, damaged files.

    python bench/studies faults                          all rows that are not there yet
    python bench/studies faults --only "disk full"       those whose names begin so
    python bench/studies faults --smoke                  one or two trials of each, kept nowhere

The rows stand beside those of `reliability`, in the same file. Each trial is forked from one process that has
everything loaded, so that a fault is made in the trial alone.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from engine.settings.plain import to_plain
from studies.fault_kinds.damage import damage, made_again
from studies.fault_kinds.ending import clock_set_back, interrupted, out_of_memory, unread
from studies.fault_kinds.trials import Count, Place, a_place
from studies.fault_kinds.writing import disk_full, read_only, two_processes, two_writers
from studies.reliability import KILLS, LEARNING, RESULT, SHORT
from studies.rows import Rows

LASTS = "minutes"
MAKING = ("generate", "generate --share, finish", "learn-tokens")
WRITING = (
    *("generate", "generate --share", "generate --share, finish", "learn-tokens"),
    *("learn-tokens --share", "learn-lora", "tune", "report", "select", "export", "fit"),
    *("statistics", "evaluate --out", "evaluate --save-statistics"),
    *("distill", "prune", "quantise", "demo"),
)
DAMAGED = (
    *("images of a part, `finish`", "images of a part, other commands", "rows of a part, `finish`"),
    *("rows of a part, other commands", "parts.json", "run.json of parts", "run.json of a folder"),
    *("manifest.parquet", "tokens", "statistics", "weights of a classifier"),
)
Trial = Callable[[Place], Count]


def trials(smoke: bool) -> dict[str, Trial]:
    """What is counted by the name of its row: the fault, a colon, and what it happens to."""
    few = 2 if smoke else 1000
    made: dict[str, Trial] = {
        f"disk full: {name}": partial(disk_full, name=name, most=few) for name in MAKING
    }
    made["read-only target: every command"] = read_only
    made["two writers of one file: whole_file"] = partial(two_writers, rounds=2 if smoke else 300)
    for name in WRITING:
        made[f"two processes: {name}"] = partial(two_processes, name=name, rounds=1 if smoke else 2)
    for name, times in {"generate": 8, "learn-tokens": 4}.items():
        times = 1 if smoke else times
        made[f"Ctrl-C: {name}"] = partial(interrupted, name=name, times=times)
    made["closed pipe: every command"] = unread
    for name in MAKING:
        times = 1 if smoke else 5
        made[f"clock set back: {name}"] = partial(clock_set_back, name=name, times=times)
    for name in ("generate", "generate --share", "learn-tokens"):
        made[f"out of memory: {name}"] = partial(out_of_memory, name=name)
    for name in DAMAGED:
        flips, cuts = (3, 1) if smoke else (100, 20)
        made[f"damaged file: {name}"] = partial(damage, name=name, flips=flips, cuts=cuts)
    made["damaged file: made again"] = partial(made_again, times=2 if smoke else 10)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", default=[""], help="beginnings of rows' names")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # a forked process has no other
    counted = trials(chosen.smoke)
    settings = {"sampling": asdict(SHORT), "learning": to_plain(LEARNING)}
    rows = Rows(chosen.out, settings, "cpu", [*KILLS, *counted])
    with a_place() as place:
        for name, count in counted.items():
            if not name.startswith(tuple(chosen.only)) or (
                not chosen.smoke and rows.kept(name).get("times")
            ):
                continue
            row = count(place).row()
            print(name, row, flush=True)
            if not chosen.smoke:
                rows.add(name, row)


if __name__ == "__main__":
    main()
