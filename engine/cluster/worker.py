"""What a worker does, wherever it runs: load the models once, then make parts."""

import os
import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from engine.events import SILENT
from engine.memory.budget import BudgetError, device_bytes, in_words
from engine.memory.plan import Plan
from engine.methods.models import Given
from engine.request import Execution, Request
from engine.runners.share import PartMaker
from engine.settings.plain import from_plain


class PartWorker:
    """Makes parts of a run. All that it takes and gives is plain data.

    Args:
        request: as `Request.to_plain` gives it.
        execution: as `to_plain` gives it; its share is all parts.
        out: folder or URL that each worker can write to.
        expected: identities of the models, as a run.json holds them; None where nothing is known of them yet.
        plan: the first ready worker's, as `Plan.to_json` gives it; None to make one, before any worker is ready.
        threads: of this process.
    """

    def __init__(
        self,
        request: Mapping[str, Any],
        execution: Mapping[str, Any],
        out: str,
        expected: Mapping[str, Any] | None,
        plan: Mapping[str, Any] | None,
        threads: int,
    ) -> None:
        self.request, self.execution, self.out = request, execution, out
        self.expected, self.plan, self.threads = expected, plan, threads

    def hello(self) -> dict[str, Any]:
        """Load the models; say what the driver wants to know. Raises what `PartMaker` raises, and BudgetError."""
        torch.set_num_threads(self.threads)
        planned = None if self.plan is None else Plan.from_json(dict(self.plan))
        carried_out = from_plain(Execution, self.execution)
        if planned is not None:
            carried_out = replace(carried_out, memory=Execution().memory)
        maker = PartMaker(
            Request.from_plain(self.request),
            carried_out,
            Given(plan=planned),
            self.out,
            self.expected,
        )
        if planned is not None:
            _check_room(planned, maker.prepared.device)
        self.maker = maker
        plan, missing = maker.prepared.plan, maker.dataset.missing()
        return {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "kind": maker.kind.to_json(),
            "models": maker.prepared.identities(),
            "plan": None if plan is None else plan.to_json(),
            "parts": maker.dataset.division.parts,
            "images": maker.groups.images,
            "missing": missing,
            "images_missing": maker.images_in(missing),
        }

    def make(self, part: int) -> dict[str, Any]:
        """Make a part. Returns how many images it has."""
        samples = self.maker.make(part, SILENT)
        return {"images": len(samples), "skipped": sum(sample.skipped for sample in samples)}


def _check_room(plan: Plan, device: torch.device) -> None:
    """Raise BudgetError where a device has less memory than the first worker planned with."""
    has = device_bytes(device)
    if has is not None and plan.generate_bytes > has:
        raise BudgetError(
            f"{socket.gethostname()} has {in_words(has)} on {device} and the run was planned with "
            f"{in_words(plan.generate_bytes)}, expected room for it: begin the run with `memory` "
            f"{in_words(has)}, which all workers then keep within."
        )
