"""What a worker does, wherever it runs: load the models once, then make parts."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch

from engine.events import SILENT
from engine.memory.budget import BudgetError, device_bytes, in_words
from engine.memory.plan import Plan
from engine.methods.base import Prepared
from engine.methods.models import Given
from engine.request import Execution, Request
from engine.runners.share import PartMaker
from engine.settings.plain import from_plain


@dataclass(frozen=True)
class Loaded:
    """A run as a worker found it once its models were loaded.

    parts: how many there are. missing: the numbers of those that are not done. units, units_missing: how many images
    or classes all parts have, and those that are missing.
    """

    prepared: Prepared
    parts: int
    missing: list[int]
    units: int
    units_missing: int


class Worker:
    """Makes parts of a run. All that it takes and gives is plain data.

    Args:
        request: as `Request.to_plain` gives it.
        execution: as `to_plain` gives it; its share is all parts.
        out: where the run is written: a place that each worker can write to.
        expected: identities of the models, as a run.json holds them; None where nothing is known of them yet.
        plan: the first ready worker's, as `Plan.to_json` gives it; None to make one, before any worker is ready.
        threads: of this process.
        folder: where relative paths begin, if it is there.
    """

    def __init__(
        self,
        request: Mapping[str, Any],
        execution: Mapping[str, Any],
        out: str,
        expected: Mapping[str, Any] | None,
        plan: Mapping[str, Any] | None,
        threads: int,
        folder: str,
    ) -> None:
        self.request, self.execution, self.out = request, execution, out
        self.expected, self.plan, self.threads, self.folder = expected, plan, threads, folder

    def hello(self) -> dict[str, Any]:
        """Load the models; say what the driver wants to know. Raises what `load` raises, and BudgetError."""
        torch.set_num_threads(self.threads)
        with suppress(OSError):  # Ray starts workers where its node was started
            os.chdir(self.folder)
        planned = None if self.plan is None else Plan.from_json(dict(self.plan))
        execution = from_plain(Execution, self.execution)
        if planned is not None:
            execution = replace(execution, memory=Execution().memory)
        run = self.load(Request.from_plain(self.request), execution, Given(plan=planned))
        if planned is not None:
            _check_room(self.planned_bytes(planned), run.prepared.device)
        plan = run.prepared.plan
        return {
            "models": run.prepared.identities(),
            "plan": None if plan is None else plan.to_json(),
            "parts": run.parts,
            "units": run.units,
            "missing": run.missing,
            "units_missing": run.units_missing,
        }

    def load(self, request: Request, execution: Execution, given: Given) -> Loaded:
        """Load the models, check everything, and begin or join the run."""
        raise NotImplementedError

    def make(self, part: int) -> dict[str, Any]:
        """Make a part. Returns how many units it has, and as "made" those of this call: 0 if another run was first."""
        raise NotImplementedError

    def planned_bytes(self, plan: Plan) -> int:
        """The predicted peak of what this worker does."""
        return plan.generate_bytes


class PartWorker(Worker):
    """Makes images: parts of a data set."""

    def load(self, request: Request, execution: Execution, given: Given) -> Loaded:
        """Raises what `PartMaker` raises."""
        self.maker = PartMaker(request, execution, given, self.out, self.expected)
        missing = self.maker.dataset.missing()
        return Loaded(
            self.maker.prepared,
            self.maker.dataset.division.parts,
            missing,
            self.maker.groups.images,
            self.maker.images_in(missing),
        )

    def make(self, part: int) -> dict[str, Any]:
        """Make a part, unless another process made it meanwhile."""
        made = len(self.maker.make(part, SILENT))
        return {"units": self.maker.images_in([part]), "made": made}


def _check_room(needed: int, device: torch.device) -> None:
    """Raise BudgetError where a device has less memory than the first worker planned with."""
    has = device_bytes(device)
    if has is not None and needed > has:
        raise BudgetError(
            f"{socket.gethostname()} has {in_words(has)} on {device} and the run was planned with "
            f"{in_words(needed)}, expected room for it: begin the run with `memory` "
            f"{in_words(has)}, which all workers then keep within."
        )
