"""Stable Diffusion 2.1's own architecture, random weights, in a capped part of a CUDA device: does what is planned fit?

    python bench/gpu_memory.py --into FILE           bench/gpu_suite.py runs this in a process of its own
    python bench/gpu_memory.py --into FILE --quick   the largest budget, one image, one classifier

For each budget (torch may reserve no more), batch and classifier: the predicted peak of each phase beside
`max_memory_reserved`, with the weights; a plain and a guided step; a short whole run; an update of a class token. What
the plan refuses, and what runs out of memory although it did not, is told as such, and the next case goes on. After
each case the rows so far stand under "memory" in FILE, beside what it held.
"""

import argparse
import gc
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from timing import median_ratios

from engine.classifiers import Classifier, load_classifier
from engine.errors import EngineError, brief
from engine.files import write_whole
from engine.memory.apply import applied
from engine.memory.budget import BudgetError, MemoryWarning, parse_budget
from engine.memory.costs import LEARNING, PHASES
from engine.memory.measure import Measured
from engine.memory.micro_batch import denoise_in_parts, is_out_of_memory
from engine.memory.phases import Case, Subject, run_case
from engine.memory.plan import Plan, plan
from engine.models import Prior, load_prior
from engine.runners.generate import sample_group
from engine.runners.job import Job, prepare
from engine.runners.learn_tokens import learn_tokens
from engine.sampling.ddim import sample
from engine.settings import Alignment, Sampling, TokenLearning

BUDGETS = ("12GB", "8GB", "6GB")
BATCHES = (1, 4, 8)
CLASSIFIERS = ("arch:resnet34", "arch:resnet50")
PRIOR = "arch:sd-2.1-base"
AT_STEP = 10
"""Of 30: a step that guidance acts on."""
RUN_STEPS = 3
EPOCHS = 3
"""Of token learning; the first warms up."""


class Card:
    """The calls of CUDA that this file makes, so that a test can put others in their place."""

    device = torch.device("cuda")
    dtype = torch.float16

    def cap(self, nbytes: int) -> None:
        """From now on torch may reserve so much."""
        total = torch.cuda.mem_get_info(self.device)[1]
        torch.cuda.set_per_process_memory_fraction(min(1.0, nbytes / total), self.device)

    def synchronise(self) -> None:
        torch.cuda.synchronize(self.device)

    def clear(self) -> None:
        """Give back what nothing holds."""
        gc.collect()
        torch.cuda.empty_cache()

    @contextmanager
    def measuring(self) -> Iterator[Measured]:
        """What a block reserves at most, all that was there before with it."""
        self.synchronise()
        self.clear()
        torch.cuda.reset_peak_memory_stats(self.device)
        measured = Measured()
        yield measured
        self.synchronise()
        measured.peak_bytes = torch.cuda.max_memory_reserved(self.device)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What does not change from case to case."""

    alignment: Alignment = Alignment()
    sampling: Sampling = Sampling()
    learning: TokenLearning = TokenLearning(
        epochs=EPOCHS, target_accuracy=1.0, skip_passing=False, init="a", check_images=0
    )
    rounds: int = 5


def attempted(card: Card, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` tells, or what stopped it: 'refused' by the plan, 'out_of_memory', or 'failed' (gradients)."""
    try:
        return work()
    except BudgetError as error:
        return {"refused": str(error)}
    except (EngineError, RuntimeError, MemoryError) as error:
        memory = is_out_of_memory(error)
        if not memory and not isinstance(error, EngineError):
            raise
        told = {"out_of_memory" if memory else "failed": brief(error)}
    card.clear()  # out of the block: the error's frames no longer hold what they made
    return told


def case_row(
    card: Card, prior: Prior, classifier: Classifier, budget: str, batch: int, settings: Settings
) -> dict[str, Any]:
    """One budget, batch and classifier: `generate` and token learning."""
    card.cap(parse_budget(budget, card.device))
    row: dict[str, Any] = {"budget": budget, "batch": batch, "classifier": classifier.name}
    models = card, prior, classifier, budget, batch, settings
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", MemoryWarning)
        row["generate"] = attempted(card, partial(_generate, *models))
        row["learn"] = attempted(card, partial(_learn, *models))
    row["warnings"] = [str(w.message) for w in warned if issubclass(w.category, MemoryWarning)]
    return row


def _generate(
    card: Card, prior: Prior, classifier: Classifier, budget: str, batch: int, settings: Settings
) -> dict[str, Any]:
    sampling = replace(settings.sampling, batch=batch, steps=RUN_STEPS)
    planned = plan(
        prior,
        classifier,
        budget,
        batch=batch,
        alignment=settings.alignment,
        sampling=settings.sampling,
        tokens=False,
        full=False,
    )
    job = prepare(
        classifier,
        prior,
        classifier.labels[:1],
        batch,
        None,
        settings.alignment,
        sampling,
        memory=planned,
    )
    return {
        "plan": _shown(planned),
        "phases": _phases(card, job, planned, None, PHASES),
        "step": attempted(card, lambda: _step(card, job, settings.rounds)),
        "run": attempted(card, lambda: _whole_run(card, job, planned)),
    }


def _learn(
    card: Card, prior: Prior, classifier: Classifier, budget: str, batch: int, settings: Settings
) -> dict[str, Any]:
    """The phases of token learning, and seconds of an update of `batch` images of one class."""
    learning = replace(settings.learning, images_per_epoch=batch)
    sampling = replace(settings.sampling, batch=batch)
    planned = plan(
        prior,
        classifier,
        budget,
        batch=batch,
        alignment=settings.alignment,
        sampling=replace(sampling, steps=learning.steps),
        tokens=learning,
        full=False,
    )
    labels = classifier.labels[:1]
    job = prepare(
        classifier, prior, labels, batch, None, settings.alignment, sampling, memory=planned
    )

    def update() -> dict[str, Any]:
        times: list[float] = []

        def at_epoch(_: object) -> None:
            card.synchronise()
            times.append(time.perf_counter())

        learn_tokens(
            classifier,
            prior,
            labels,
            learning,
            settings.alignment,
            sampling,
            on_progress=at_epoch,
            memory=planned,
        )
        seconds = (times[-1] - times[0]) / (len(times) - 1) / learning.updates_per_trajectory
        return {"seconds_per_update": round(seconds, 4), "images": batch}

    phases = _phases(card, job, planned, learning, LEARNING)
    return {"plan": _shown(planned), "phases": phases, "update": attempted(card, update)}


def _shown(planned: Plan) -> dict[str, Any]:
    values = planned.to_json()
    kept = (
        "attention",
        "decoder",
        "decode_px",
        "dtype",
        "micro_batch",
        "checkpoint",
        "offload",
        "tile",
    )
    return {name: values[name] for name in kept}


def _compared(predicted: int, measured: int) -> dict[str, Any]:
    error = round(predicted / measured - 1, 4)
    return {"predicted_bytes": predicted, "measured_bytes": measured, "error": error}


def _phases(
    card: Card, job: Job, planned: Plan, learning: TokenLearning | None, names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Each phase alone, as the plan runs it: its predicted peak beside the measured one."""
    prior, batch = job.prior, planned.batch
    subject = Subject(
        prior=prior,
        classifier=job.classifier,
        alignment=job.alignment,
        cfg=job.sampling.cfg,
        learning=learning,
    )

    def measured(name: str, phase: Any) -> dict[str, Any]:
        tile = planned.tile if name == "decode" else 0
        case = Case(name, batch, planned.micro_batch[name], name in planned.checkpoint, tile)
        with phase(name):
            if name == "guidance":
                run_case(
                    subject, Case(name, 1, 1)
                )  # a classifier is watched once before it is fused
            with card.measuring() as found:
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


def _step(card: Card, job: Job, rounds: int) -> dict[str, Any]:
    """Seconds of a plain and a guided step, as the plan runs them, and how much longer the guided one takes."""
    prior, (keys, *_) = job.prior, job.groups()
    step, guidance = prior.schedule(30)[AT_STEP], job.guidance(keys)
    assert guidance.acts_on(step)
    noise = torch.Generator().manual_seed(0)
    z = torch.randn(len(keys), *prior.latent_shape, generator=noise).to(prior.device)
    with torch.no_grad(), applied(job.plan, prior) as phase:
        with phase("text"):
            context, null = prior.encode_prompts(["a photo"]), prior.encode_prompts([""])
        context = context.expand(len(keys), -1, -1)
        with phase("sampling"):
            denoise = denoise_in_parts(prior, context, null, job.sampling.cfg, job.parts)
            runs = {
                "plain": lambda: sample(z, denoise, [step]),
                "guided": lambda: sample(z, guidance.before(denoise), [step], guidance.move),
            }
            found = median_ratios(runs, "plain", card.device.type, rounds)
    guidance.check()
    plain, guided = (found[name]["s"] for name in ("plain", "guided"))
    return {
        "plain_s": plain,
        "guided_s": guided,
        "overhead": round(found["guided"]["ratio"] - 1, 4),
    }


def _whole_run(card: Card, job: Job, planned: Plan) -> dict[str, Any]:
    """A run of a few steps, from its prompts to its images."""
    (keys,) = job.groups()
    with card.measuring() as found:
        made = sample_group(job, keys)
    finite = all(bool(image.image.isfinite().all()) for image in made)
    return {**_compared(planned.generate_bytes, found.peak_bytes), "finite": finite}


def errors(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of all phases that were measured, by phase: the largest error of a prediction, and how low one was at most."""
    found = [
        phase["error"]
        for row in rows
        for work in ("generate", "learn")
        for phase in row[work].get("phases", {}).values()
        if "error" in phase
    ]
    if not found:
        return {}
    return {
        "largest": max(map(abs, found)),
        "mean": round(mean(map(abs, found)), 4),
        "lowest": min(found),
    }


def suite(
    card: Card,
    prior: Prior,
    classifiers: Sequence[str | Classifier],
    settings: Settings,
    budgets: Sequence[str],
    batches: Sequence[int],
    on_row: Callable[[list[dict[str, Any]]], None],
) -> list[dict[str, Any]]:
    """A row for each classifier, batch and budget; on_row: called with all of them after each."""
    rows: list[dict[str, Any]] = []
    for source in classifiers:
        classifier = (
            source
            if isinstance(source, Classifier)
            else load_classifier(source, device=card.device, dtype=card.dtype)
        )
        for batch, budget in product(batches, budgets):
            rows.append(case_row(card, prior, classifier, budget, batch, settings))
            on_row(rows)
    return rows


def keep(file: Path, rows: list[dict[str, Any]]) -> None:
    """Put the rows under "memory" into a JSON file, and leave what else it holds."""
    there = json.loads(file.read_text()) if file.exists() else {}
    there["memory"] = {"prior": PRIOR, "rows": rows, "errors": errors(rows)}
    write_whole(file, json.dumps(there, indent=1).encode() + b"\n")
    print(json.dumps(rows[-1]), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, required=True, help="JSON file that gets the rows")
    parser.add_argument(
        "--quick", action="store_true", help="the largest budget, one image, one classifier"
    )
    chosen = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        raise SystemExit(
            "no CUDA device here, so its memory is not measured: run this on a CUDA machine."
        )
    card = Card()
    prior = load_prior(PRIOR, device=card.device, dtype=card.dtype)
    some = slice(1 if chosen.quick else None)
    suite(
        card,
        prior,
        CLASSIFIERS[some],
        Settings(),
        BUDGETS[some],
        BATCHES[some],
        partial(keep, chosen.into),
    )


if __name__ == "__main__":
    main()
