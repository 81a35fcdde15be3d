"""`ddis generate`: a data set for a classifier; `ddis learn-tokens`: a token for each of its classes."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.baselines.methods import DDIS
from engine.config import Sampling, TokenLearning
from engine.options import (
    add_alignment,
    add_config,
    add_learning,
    add_memory,
    add_methods,
    add_models,
    add_request,
    add_runtime,
    alignment_of,
    check_methods,
    learning_of,
    load_models,
    load_student,
    load_teacher,
    method_of,
    sampling_of,
)
from engine.progress import AddBar, Progress

if TYPE_CHECKING:
    from engine.pipelines.baseline_job import BaselineJob
    from engine.pipelines.job import Job

GENERATE_HELP = "write a data set for a classifier"
LEARN_HELP = "learn a class alignment token (CAT) for each class"


def add_generate(parser: argparse.ArgumentParser) -> None:
    add_models(parser)
    add_request(parser)
    parser.add_argument("--images-per-class", type=int, default=8, help="images of each class (default: 8)")
    parser.add_argument("--tokens", type=Path, help="learned class tokens, a file of `ddis learn-tokens`")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the data set; continued if it was cut"
    )
    add_memory(parser)
    add_runtime(parser)
    add_alignment(parser)
    add_config(parser, Sampling())
    add_methods(parser)


def add_learn(parser: argparse.ArgumentParser) -> None:
    add_models(parser)
    add_request(parser)
    parser.add_argument(
        "--out", type=Path, required=True, help="token file (.safetensors); continued if it was cut"
    )
    parser.add_argument(
        "--textual-inversion", type=Path, help="also write one file a class here, for diffusers"
    )
    add_memory(parser)
    add_alignment(parser)
    add_config(parser, Sampling())
    add_learning(parser)


def run_generate(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    from engine.pipelines.generate import write

    job = _job_of(chosen)
    total = len(job.classes) * job.images_per_class
    with progress.bar("images", None) as bar:
        images = write(job, chosen.out, lambda step, of: bar.advance(len(of) / step.total), bar.expect)
        made = sum(1 for _ in images)
    sheet = chosen.out / "contact_sheet.png"
    progress.say(f"{total} images in {chosen.out}, {made} of them made now. Contact sheet: {sheet}")
    return {"folder": str(chosen.out), "images": total, "made_now": made, "contact_sheet": str(sheet)}


def _job_of(chosen: argparse.Namespace) -> "Job | BaselineJob":
    """The request that the options of `generate` make."""
    from engine.pipelines.baseline_job import prepare_baseline
    from engine.pipelines.job import prepare

    check_methods(chosen)
    if chosen.method == DDIS:
        return prepare(
            *load_models(chosen), chosen.classes, chosen.images_per_class, chosen.tokens, alignment_of(chosen),
            sampling_of(chosen), chosen.seed, chosen.memory, chosen.runtime, chosen.onnx_cache,
            attention=chosen.attention,
        )  # fmt: skip
    classifier = load_teacher(chosen)
    return prepare_baseline(
        classifier, method_of(chosen, classifier), chosen.classes, chosen.images_per_class, chosen.seed,
        load_student(chosen, classifier),
    )  # fmt: skip


def run_learn(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    from engine.pipelines.learn_tokens import learn_tokens
    from engine.tokens.textual_inversion import export_textual_inversion

    learning = learning_of(chosen)
    classifier, prior = load_models(chosen)
    with progress.bars() as add:
        table = learn_tokens(
            classifier, prior, chosen.classes, learning, alignment_of(chosen), sampling_of(chosen),
            chosen.seed, chosen.out, memory=chosen.memory, attention=chosen.attention,
            **learning_bars(add, learning, classifier.labels, len(chosen.classes or classifier.labels)),
        )  # fmt: skip
    rows = {classifier.labels[index]: asdict(training) for index, training in table.training.items()}
    columns = ["class", "start", "outcome", "epochs", "recognised", "loss", "UNet forward", "backward"]
    lines = [
        [name, r["start"] if r["moved"] else f"{r['start']}, unmoved", r["outcome"], str(r["epochs"]),
         f"{r['accuracy']:.0%}", f"{r['loss']:.2f}", str(r["unet_forward"]), str(r["unet_backward"])]
        for name, r in rows.items()
    ]  # fmt: skip
    progress.table(f"Tokens in {chosen.out}", columns, lines)
    exported = export_textual_inversion(table, chosen.textual_inversion) if chosen.textual_inversion else {}
    return {
        "file": str(chosen.out),
        "classes": rows,
        "textual_inversion": {k: str(v) for k, v in exported.items()},
    }


def learning_bars(
    add: AddBar, learning: TokenLearning, labels: Sequence[str], classes: int
) -> dict[str, Any]:
    """Bars for the trial of words and for the epochs of some classes, as the callbacks of `learn_tokens`."""
    from engine.pipelines.start_word import looked_at, trial_images

    reports = learning.epochs + learning.skip_passing + (learning.check_images > 0)
    trial = add("images that try words", trial_images(learning) * len(looked_at(range(classes))))
    epochs = add("epochs", reports * classes)
    return {
        "on_trial": lambda step, clean: trial.advance(len(clean) / step.total),
        "on_progress": lambda e: epochs.advance(
            detail=f"{labels[e.class_index]}: {e.accuracy:.0%} recognised"
        ),
    }
