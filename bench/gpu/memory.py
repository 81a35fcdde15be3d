"""Does what is planned fit? Stable Diffusion 2.1's architecture at 512 px in capped parts of the device.

For each budget (torch may reserve no more) and batch: the predicted peak of each phase next to the reserved one, the
weights included; a plain and a guided step; a short whole run; an update of a class token; the paper's way. What the
plan refuses and what runs out of memory although it did not is reported as such.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean
from typing import Any

from engine import learn_tokens, plan
from engine.classifiers import Classifier
from engine.errors import EngineError, brief
from engine.events import EpochEnded, Event, Events
from engine.memory.apply import applied
from engine.memory.budget import BudgetError, MemoryWarning, parse_budget
from engine.memory.case import Case
from engine.memory.costs import LEARNING, PHASES
from engine.memory.micro_batch import is_out_of_memory
from engine.memory.phases import run_case
from engine.memory.plan import Plan
from engine.memory.subject import Subject
from engine.methods.ddis import prepare
from engine.methods.drawing import Drawing
from engine.priors import Prior
from engine.runners.asking import asked
from engine.settings import Alignment, Sampling, TokenLearning
from gpu.card import Card
from gpu.record import Record
from gpu.steps import timed_step, unchecked

CASES = (("12GB", 8), ("8GB", 8), ("6GB", 8), ("4GB", 1))
"""Budgets and batches. The paper's way is measured behind all of ours."""
RUN_STEPS = 3
EPOCHS = 3
"""Of token learning; the first warms up."""
SHOWN = (
    "attention",
    "decoder",
    "decode_px",
    "dtype",
    "micro_batch",
    "checkpoint",
    "staged",
    "offload",
    "tile",
    "channels_last",
    "eager_because",
)
"""The fields of a plan that a row quotes."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What does not change from case to case."""

    alignment: Alignment = Alignment()
    sampling: Sampling = Sampling()
    learning: TokenLearning = TokenLearning(
        epochs=EPOCHS, target_accuracy=1.0, skip_passing=False, init="a", check_images=0
    )
    rounds: int = 5


DRY = Settings(
    sampling=Sampling(steps=3),
    learning=replace(Settings().learning, epochs=2, steps=3, updates_per_trajectory=1),
    rounds=1,
)


def measure(record: Record, card: Card) -> None:
    """Put `<budget>, batch <n>` for each case, `errors` of the predictions so far, and the paper's rows."""
    prior, classifier = card.prior(), card.classifier()
    settings = card.pick(Settings(), DRY)
    paper = replace(settings, alignment=Alignment.paper(), sampling=Sampling.paper())
    cases = card.pick(CASES, (("9GB", 1),))
    for budget, batch in cases:
        work = partial(case_row, card, prior, classifier, budget, batch, settings)
        record.attempt(f"{budget}, batch {batch}", work)
        record.put("errors", errors(list(record.rows.values())))
    for budget, batch in cases:
        work = partial(case_row, card, prior, classifier, budget, batch, paper, learn=False)
        record.attempt(f"paper, {budget}, batch {batch}", work)


def case_row(
    card: Card,
    prior: Prior,
    classifier: Classifier,
    budget: str,
    batch: int,
    settings: Settings,
    learn: bool = True,
) -> dict[str, Any]:
    """`generate` and, unless `learn` is False, token learning in one budget."""
    card.cap(parse_budget(budget, card.device))
    row: dict[str, Any] = {"budget": budget, "batch": batch, "classifier": classifier.name}
    models = card, prior, classifier, budget, batch, settings
    with warnings.catch_warnings(record=True) as warned, unchecked():
        warnings.simplefilter("always", MemoryWarning)
        row["generate"] = attempted(card, partial(_generate, *models))
        if learn:
            row["learn"] = attempted(card, partial(_learn, *models))
    row["warnings"] = [str(w.message) for w in warned if issubclass(w.category, MemoryWarning)]
    return row


def attempted(card: Card, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` returns, or what stopped it: 'refused' by the plan, 'out_of_memory', or 'failed'."""
    try:
        return work()
    except BudgetError as error:
        return {"refused": str(error)}
    except (EngineError, RuntimeError, MemoryError) as error:
        stopped = {"out_of_memory" if is_out_of_memory(error) else "failed": brief(error)}
    card.clear()  # out of the block: the error's frames no longer hold what they made
    return stopped


def _generate(
    card: Card,
    prior: Prior,
    classifier: Classifier,
    budget: str,
    batch: int,
    settings: Settings,
) -> dict[str, Any]:
    alignment, sampling = settings.alignment, replace(settings.sampling, batch=batch)
    planned = plan(
        prior,
        classifier,
        budget,
        batch=batch,
        alignment=alignment,
        sampling=sampling,
        tokens=False,
        full=False,
    )
    drawing = asked(
        classifier,
        prior,
        classifier.labels[:1],
        batch,
        alignment=alignment,
        sampling=replace(sampling, steps=RUN_STEPS),
        memory=planned,
    ).prepare()
    return {
        "plan": _shown(planned),
        "phases": _phases(card, prior, drawing, planned, None, PHASES),
        "step": attempted(card, lambda: timed_step(card, drawing, settings.rounds)),
        "run": attempted(card, lambda: _whole_run(card, drawing, planned)),
    }


def _learn(
    card: Card,
    prior: Prior,
    classifier: Classifier,
    budget: str,
    batch: int,
    settings: Settings,
) -> dict[str, Any]:
    """The phases of token learning, and an update of `batch` images of one class."""
    learning = replace(settings.learning, images_per_epoch=batch)
    alignment, sampling = settings.alignment, replace(settings.sampling, batch=batch)
    planned = plan(
        prior,
        classifier,
        budget,
        batch=batch,
        alignment=alignment,
        sampling=replace(sampling, steps=learning.steps),
        tokens=learning,
        full=False,
    )
    labels = classifier.labels[:1]
    wanted = asked(
        classifier,
        prior,
        labels,
        batch,
        alignment=alignment,
        sampling=sampling,
        memory=planned,
    )
    drawing = prepare(wanted.request, wanted.models, wanted.execution, learning)

    def update() -> dict[str, Any]:
        times: list[float] = []

        def at_epoch(event: Event) -> None:
            if isinstance(event, EpochEnded):
                card.synchronise()
                times.append(time.perf_counter())

        with card.peak(*networks_of(prior, classifier)) as found:
            learn_tokens(
                classifier,
                prior,
                labels,
                learning,
                alignment=alignment,
                sampling=sampling,
                events=Events(at_epoch),
                memory=planned,
            )
        updates = (len(times) - 1) * learning.updates_per_trajectory
        return {
            "seconds_per_update": round((times[-1] - times[0]) / updates, 4),
            "images": batch,
            "measured_bytes": found.peak_bytes,
        }

    phases = _phases(card, prior, drawing, planned, learning, LEARNING)
    return {"plan": _shown(planned), "phases": phases, "update": attempted(card, update)}


def networks_of(prior: Prior, classifier: Classifier) -> list[Any]:
    """All networks whose weights a run has on the device."""
    return [*(part.module for part in prior.components()), classifier.network]


def _shown(planned: Plan) -> dict[str, Any]:
    values = planned.to_json()
    return {name: values[name] for name in SHOWN}


def _compared(predicted: int, measured: int) -> dict[str, Any]:
    error = round(predicted / measured - 1, 4)
    return {"predicted_bytes": predicted, "measured_bytes": measured, "error": error}


def _phases(
    card: Card,
    prior: Prior,
    drawing: Drawing,
    planned: Plan,
    learning: TokenLearning | None,
    names: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """Each phase alone, as the plan runs it: its predicted peak and the measured one.

    prior: the one that was loaded. The drawing's own may replay CUDA graphs, whose memory is in no single phase's plan.
    """
    batch = planned.batch
    subject = Subject(
        prior=prior,
        classifier=drawing.classifier,
        alignment=drawing.alignment,
        cfg=drawing.sampling.cfg,
        learning=learning,
    )

    def measured(name: str, phase: Any) -> dict[str, Any]:
        tile = planned.tile if name == "decode" else 0
        case = Case(
            name,
            batch,
            planned.micro_batch[name],
            name in planned.checkpoint,
            tile,
            name in planned.staged,
        )
        with phase(name):
            if name == "guidance":
                run_case(
                    subject, Case(name, 1, 1)
                )  # a classifier is watched once before it is fused
            with card.peak(*networks_of(prior, drawing.classifier)) as found:
                run_case(subject, case)
        return _compared(planned.peak_bytes[name], found.peak_bytes)

    with applied(planned, prior) as phase:
        return {
            name: {
                "predicted_bytes": planned.peak_bytes[name],
                **attempted(card, partial(measured, name, phase)),
            }
            for name in names
            if name in planned.peak_bytes
        }


def _whole_run(card: Card, drawing: Drawing, planned: Plan) -> dict[str, Any]:
    """A run of a few steps, from its prompts to its images."""
    (keys,) = drawing.groups()
    with card.peak(*networks_of(drawing.prior, drawing.classifier)) as found:
        made = drawing.make(keys)
    finite = all(bool(image.image.isfinite().all()) for image in made)
    return {**_compared(planned.generate_bytes, found.peak_bytes), "finite": finite}


def errors(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of all phases that were measured: the largest error of a prediction, their mean, and how low one was at most."""
    found = [
        phase["error"]
        for row in rows
        for work in ("generate", "learn")
        for phase in row.get(work, {}).get("phases", {}).values()
        if "error" in phase
    ]
    if not found:
        return {}
    return {
        "largest": max(map(abs, found)),
        "mean": round(mean(found), 4),
        "lowest": min(found),
    }
