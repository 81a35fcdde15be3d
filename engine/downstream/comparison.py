"""One run for each row and seed, each kept once it is done: an interrupted comparison resumes.

request.json           all that the runs depend on; a folder begun with another request is refused
<row>/seed-<n>/        what the run made, its scores image by image, and last of all measures.json
report.json            written when all runs are done
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from engine.datasets.run_record import differences, versions
from engine.downstream.intervals import difference
from engine.downstream.rows import Row, Sets
from engine.downstream.sources import FOLDER, MADE_HERE, STREAM
from engine.errors import OutputError, counted
from engine.events import Advance, Events, Noted
from engine.facts import filled, with_names_of
from engine.files import OURS, explained, make_folder, read_object, remove_leftovers, write_whole
from engine.locks import locked_folder
from engine.settings.downstream import Distillation, Pruning, Quantisation

REQUEST, MEASURES, REPORT = "request.json", "measures.json", "report.json"
SCORES = "scores.safetensors"
DIFFERENCE = "difference_to_{}"
"""Of a row in the report: its scores less those of the folder or the stream, with intervals of 95 % over images and
seeds."""
FORMAT = "ddis-downstream/1"
FEW_SEEDS = 3
FEW_MEASURED = 50
BEGIN_AGAIN = "delete the folder and run the same command again"
RUNS = "runs"
"""The task that counts them."""
KINDS = {"distillation": Distillation, "pruning": Pruning, "quantisation": Quantisation}
"""The settings in a request, by its keys."""
OF_0_1 = {"distillation": {"mix": "none"}}
"""What version 0.1 did where it had no setting, and the default is another one now."""
Run = Callable[[Any, int, Path, Advance], Mapping[str, Any]]
"""(a row, seed, folder for what it makes, where shares of the run are reported) -> measures by name.

Rows are `Images`; of a distillation, one may be a `Stream`. A measure is a number, or None where there is none."""


def compare(
    task: str,
    out: Path,
    sets: Sets,
    seeds: int,
    request: Mapping[str, Any],
    run: Run,
    events: Events,
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Do all runs of a task in `out` and sum them up by row: {"images", "rows", "warnings", ...}, as JSON values.

    What makes the comparison say less than it seems to is reported before the first run. warnings: what else does,
    besides what the sets and their number show. Raises OutputError where `out` holds something else.
    """
    asked = {"format": FORMAT, "task": task, **request, "sets": _identity(sets)}
    warnings = [*sets.warnings, *_too_few(seeds, len(sets.test)), *warnings]
    with _folder(out, asked), events.task(RUNS, len(sets.rows) * seeds) as task_of_runs:
        for warning in warnings:
            events.emit(Noted(f"warning: {warning}"))
        rows: dict[str, Any] = {}
        for name, images in sets.rows.items():
            runs = [
                _kept(
                    out / name / f"seed-{seed}",
                    images,
                    seed,
                    run,
                    partial(task_of_runs.progress, detail=f"{name}, seed {seed}"),
                )
                for seed in range(seeds)
            ]
            rows[name] = {
                "images": len(images),
                # Runs of before a measure came lack it.
                **{key: _summary([found.get(key) for found in runs]) for key in runs[-1]},
            }
        for ours, name in product((FOLDER, STREAM), rows):
            if ours in rows and name != ours:
                rows[name][DIFFERENCE.format(ours)] = _differences(out / name, out / ours, seeds)
    return {
        **asked,
        "versions": versions(),
        "measured_on": "the test images" if sets.tested else "a held-out part of the folder",
        "measured_images": len(sets.test),
        "rows": rows,
        "warnings": warnings,
    }


def _too_few(seeds: int, measured: int) -> list[str]:
    """A sentence where there are few seeds, and one where few images are measured."""
    few = []
    if seeds < FEW_SEEDS:
        few.append(
            f"{counted(seeds, 'seed')}: the spread says little, expected {FEW_SEEDS} or more."
        )
    if measured < FEW_MEASURED:
        few.append(
            f"{counted(measured, 'measured image')}: one of them is {100 / measured:.1f} points, expected "
            f"{FEW_MEASURED} or more."
        )
    return few


def keep_scores(folder: Path, scores: Mapping[str, Tensor]) -> None:
    """Write what the images say of a run's network: (N,) by score."""
    write_whole(folder / SCORES, save(dict(scores)))


def _differences(row: Path, ours: Path, seeds: int) -> dict[str, Any] | None:
    """The scores of a row less those of ours, by score; None where runs were made before scores were kept."""
    files = [[at / f"seed-{seed}" / SCORES for seed in range(seeds)] for at in (row, ours)]
    if not all(file.exists() for file in (*files[0], *files[1])):
        return None
    of_row, of_ours = ([load(file.read_bytes()) for file in of] for of in files)

    def of_all(runs: list[dict[str, Tensor]], name: str) -> Tensor:
        return torch.stack([run[name] for run in runs])

    return {name: difference(of_all(of_row, name), of_all(of_ours, name)) for name in of_row[0]}


def finished_runs(out: Path) -> int:
    """How many runs of a comparison are done."""
    return len(list(out.glob(f"*/seed-*/{MEASURES}")))


def check_out(out: Path) -> None:
    """Raise OutputError where `out` exists and is neither empty nor a comparison."""
    with explained(out):
        names = [entry.name for entry in out.iterdir()] if out.exists() else []
    foreign = sorted(name for name in names if not name.startswith(OURS) and name not in MADE_HERE)
    if foreign and REQUEST not in foreign:
        raise OutputError(
            f"{out} holds other files ({', '.join(foreign[:3])}), expected a new or empty folder, or one to "
            "continue: choose another folder."
        )


def write_report(out: Path, report: Mapping[str, Any]) -> None:
    """Write `report.json`, whole or not at all."""
    write_whole(out / REPORT, json.dumps(report, indent=1).encode() + b"\n")


def _kept(folder: Path, images: Row, seed: int, run: Run, advance: Advance) -> dict[str, Any]:
    """The measures of one run, from its folder if it was done before."""
    file = folder / MEASURES
    if file.exists():
        advance(1.0)
        return read_object(file, "delete it and run the same command again, which repeats this run")
    make_folder(folder)
    began = time.monotonic()
    measures = dict(run(images, seed, folder, advance))
    measures["seconds"] = round(time.monotonic() - began, 1)
    write_whole(file, json.dumps(measures, indent=1).encode() + b"\n")
    return measures


def _summary(values: list[float | None]) -> dict[str, Any] | None:
    """Mean, and the standard deviation of the values about it (n - 1; None of one alone)."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    spread = statistics.stdev(known) if len(known) > 1 else None
    return {"mean": statistics.fmean(known), "spread": spread, "values": values}


def _identity(sets: Sets) -> dict[str, str]:
    """A fingerprint of the images and labels of each row and of those that are measured on."""
    return {name: images.fingerprint for name, images in {**sets.rows, "test": sets.test}.items()}


@contextmanager
def _folder(out: Path, asked: Mapping[str, Any]) -> Iterator[None]:
    """Hold the folder for this request alone."""
    check_out(out)
    make_folder(out)
    with locked_folder(out):
        remove_leftovers(out)
        if (out / REQUEST).exists():
            there = read_object(out / REQUEST, BEGIN_AGAIN)
            there |= {
                name: filled(kind, OF_0_1.get(name, {}) | there[name])
                for name, kind in KINDS.items()
                if name in there
            }
            differing = differences(there, with_names_of(there, asked))
            if differing:
                raise OutputError(
                    f"{out} was begun with other settings: {'; '.join(differing)}. Expected the same to continue it: "
                    "use them, or choose another folder."
                )
        else:
            write_whole(out / REQUEST, json.dumps(asked, indent=1).encode() + b"\n")
        yield
