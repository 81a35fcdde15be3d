"""What a worker does that learns tokens: load the models once, then learn cohorts of classes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.cluster.worker import Loaded, Worker
from engine.events import SILENT
from engine.memory.costs import LEARNING
from engine.memory.plan import Plan
from engine.methods.ddis import prepare
from engine.methods.models import Given, Models
from engine.request import Execution, Request
from engine.runners.local import check_models
from engine.runners.token_cohorts import CohortLearner
from engine.runners.token_record import described, learned
from engine.settings import TokenLearning
from engine.settings.plain import from_plain


class TokenWorker(Worker):
    """Learns tokens: cohorts of classes, which the worker that learns the last of them joins into one file.

    learning: as `to_plain` gives it. The rest is as `Worker` takes it; out: a token file on a disk of all workers.
    """

    def __init__(self, learning: Mapping[str, Any], **named: Any) -> None:
        super().__init__(**named)
        self.learning = learning

    def load(self, request: Request, execution: Execution, given: Given) -> Loaded:
        """Raises what `prepare` and `CohortLearner` raise."""
        learning = from_plain(TokenLearning, self.learning)
        drawing = prepare(request, Models(request, execution, given), execution, learning)
        if self.expected is not None:
            check_models(self.expected, drawing.identities())
        out = Path(self.out)
        if learned(out, described(drawing, learning)) is not None:
            return Loaded(drawing, 0, [], 0, 0)
        self.cohorts = CohortLearner(drawing, learning, out, SILENT, execution.mixed)
        missing = self.cohorts.missing()
        if not missing:  # whoever learned the last one was killed before it joined them
            self.cohorts.table()
        return Loaded(
            drawing,
            len(self.cohorts.files),
            missing,
            len(self.cohorts.start.classes),
            self.cohorts.classes_in(missing),
        )

    def make(self, part: int) -> dict[str, Any]:
        """Learn a cohort, also where a slower worker does."""
        self.cohorts.learn(part, also=True)
        if not self.cohorts.missing():
            self.cohorts.table()
        classes = self.cohorts.classes_in([part])
        return {"units": classes, "made": classes}

    def planned_bytes(self, plan: Plan) -> int:
        """The predicted peak, of drawing images and of learning from them."""
        return max(plan.generate_bytes, *(plan.peak_bytes.get(phase, 0) for phase in LEARNING))
