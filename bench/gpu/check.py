"""Are the kernels right on this device? Against float64, against hooks on whole networks, and in parts against whole.

Compiling takes most of the time, so the cases are shared among processes, one for each core but one.
"""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from networks import LAYOUTS, contenders
from torch import Tensor

from engine.guidance.objective import Objective
from engine.settings import Alignment
from gpu.card import Card
from gpu.exactness import SHAPES, TOLERANCE, check_small_ops, worst_error
from gpu.record import Record

Case = tuple[str, Callable[[], object]]


def measure(record: Record, card: Card) -> None:
    """Put `cases` (how many there are), `done`, `wrong` (those that failed) and the worst error of each dtype."""
    count = card.pick(max(1, (os.cpu_count() or 2) - 1), 1)
    files = [record.file.with_name(f"check.{number}.json") for number in range(count)]
    for file in files:
        file.unlink(missing_ok=True)
    workers = [
        multiprocessing.Process(target=_worker, args=(card.device.type, number, count, file))
        for number, file in enumerate(files)
    ]
    for worker in workers:
        worker.start()
    record.put("cases", sum(1 for _ in cases(card)))
    while True:
        working = any(worker.is_alive() for worker in workers)
        rows = {name: row for file in files for name, row in _read(file).items()}
        if len(rows) > record.rows.get("done", 0):
            _report(record, rows)
        if not working:
            break
        time.sleep(0.5)
    crashed = [worker.exitcode for worker in workers if worker.exitcode]
    if crashed:
        raise RuntimeError(f"{len(crashed)} of {count} processes ended with exit codes {crashed}")


def _worker(device: str, number: int, count: int, file: Path) -> None:
    torch.set_num_threads(1)
    record = Record(file)
    for name, case in list(cases(Card(device)))[number::count]:
        record.attempt(name, case)


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {}


def _report(record: Record, rows: dict[str, Any]) -> None:
    worst: dict[str, float] = {}
    for row in rows.values():
        if "dtype" in row:
            worst[row["dtype"]] = max(worst.get(row["dtype"], 0.0), row["worst_error"])
    record.put("worst_relative_error", worst)
    record.put("networks", {name: row for name, row in rows.items() if "fused_error" in row})
    record.put("wrong", {name: row for name, row in rows.items() if "error" in row})
    record.put("done", len(rows))


def cases(card: Card) -> Iterator[Case]:
    """Every case by name, those that compile the most first."""
    for batch, statistics in card.pick([(8, "batch"), (2, "image")], [(2, "batch")]):
        yield f"network, batch {batch}, {statistics}", partial(_network, card, batch, statistics)
    shapes = card.pick(SHAPES, SHAPES[1:3])
    yield "small ops", lambda: check_small_ops(card.device, shapes) or {}
    for shape, dtype, layout in product(shapes, TOLERANCE, LAYOUTS):
        yield f"{shape} {dtype} {layout}", partial(_exact, card, shape, dtype, layout)


def _exact(card: Card, shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> dict[str, Any]:
    worst = worst_error(card.device, shape, dtype, layout)
    return {"dtype": str(dtype).removeprefix("torch."), "worst_error": worst}


def _network(card: Card, batch: int, statistics: str) -> dict[str, Any]:
    """Gradients on a whole network in float32: fused against hooks, and two passes against one."""
    torch.backends.cudnn.allow_tf32 = False
    classifier = card.classifier(torch.float32)
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 3, *classifier.preprocess.crop, generator=rng).to(card.device)
    runs = contenders(classifier.network, classifier.preprocess.normalised(images))
    classes = torch.zeros(batch, dtype=torch.int64, device=card.device)
    objective = Objective(classifier, Alignment(statistics=statistics))
    whole, parts = (
        objective.value_and_grad(images, classes, at_once)[1]
        for at_once in (batch, max(1, batch // 2))
    )
    return {
        "fused_error": _gap(runs["fused"](), runs["hook"]()),
        "parts_error": _gap(parts, whole),
    }


def _gap(got: Tensor, expected: Tensor) -> float:
    """The length of the difference over the length of what was expected."""
    return ((got - expected).norm() / expected.norm()).item()
