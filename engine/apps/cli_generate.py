"""`ddis generate`: a data set for a classifier; `ddis learn-tokens`: a token for each of its classes."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.apps.options import (
    add_alignment,
    add_config,
    add_graphs,
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
from engine.apps.progress import AddBar, Progress
from engine.errors import ConfigError
from engine.methods.registry import DDIS, PLAIN
from engine.settings import Sampling, Selection, TokenLearning

if TYPE_CHECKING:
    from engine.runners.baseline_job import BaselineJob
    from engine.runners.job import Job

GENERATE_HELP = "write a data set for a classifier"
LEARN_HELP = "learn a class alignment token (CAT) for each class"


def add_generate(parser: argparse.ArgumentParser) -> None:
    add_models(parser)
    add_request(parser)
    parser.add_argument(
        "--images-per-class", type=int, default=8, help="images of each class (default: 8)"
    )
    parser.add_argument(
        "--over-generate",
        type=float,
        metavar="FACTOR",
        help="make FACTOR times as many images, in "
        "the folder OUT-all, and keep the better ones in OUT, as `ddis select`; above 1",
    )
    parser.add_argument(
        "--tokens", type=Path, help="learned class tokens, a file of `ddis learn-tokens`"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the data set; continued if it was cut"
    )
    add_memory(parser)
    add_graphs(parser)
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
    if chosen.over_generate is not None:
        return _over_generate(chosen, progress)
    job = _job_of(chosen, chosen.images_per_class)
    total = len(job.classes) * job.images_per_class
    made = _made(job, chosen.out, progress)
    sheet = chosen.out / "contact_sheet.png"
    progress.say(f"{total} images in {chosen.out}, {made} of them made now. Contact sheet: {sheet}")
    return {
        "folder": str(chosen.out),
        "images": total,
        "made_now": made,
        "contact_sheet": str(sheet),
    }


def _over_generate(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """More images than are asked for in a folder beside --out, and the better ones of each class in --out."""
    from engine.datasets.dataset import open_dataset
    from engine.evaluation.select import select, selection_config

    number = many_images(chosen.images_per_class, chosen.over_generate)
    out = chosen.out.resolve()
    every = out.with_name(f"{out.name}-all")
    job = _job_of(chosen, number)
    selection = Selection(keep=chosen.images_per_class / number)
    made_with = job.describe() | {
        "labels": {str(index): label for index, label in job.labels.items()}
    }
    with open_dataset(chosen.out, selection_config(made_with, selection), job.labels):
        pass  # refuses now what it would refuse once all images are made
    made = _made(job, every, progress)
    with progress.bar("images kept", chosen.images_per_class * len(job.classes)) as bar:
        report = select(every, chosen.out, selection, job.classifier, bar.advance)
    sheet = chosen.out / "contact_sheet.png"
    progress.say(
        f"{report['images']} images in {every}, {made} of them made now; the better {report['kept']} in {chosen.out}. "
        f"Contact sheet: {sheet}"
    )
    return {
        "folder": str(chosen.out),
        "images": report["kept"],
        "made_now": made,
        "contact_sheet": str(sheet),
        "all": str(every),
        "all_images": report["images"],
    }


def many_images(images_per_class: int, factor: float) -> int:
    """How many images of each class are made so that `images_per_class` can be chosen from them."""
    if not 1 < factor < float("inf"):
        raise ConfigError(
            f"--over-generate is {factor:g}, expected a number above 1: 2 makes twice as many images as are kept. "
            "Leave it out to keep all."
        )
    number = round(factor * images_per_class)
    if 0 < images_per_class == number:
        raise ConfigError(
            f"--over-generate {factor:g} of {images_per_class} images a class makes no more, expected at least one "
            "more to choose from: raise it, or --images-per-class."
        )
    return number


def _made(job: "Job | BaselineJob", out: Path, progress: Progress) -> int:
    """Write what is missing of a job's folder, and say how many images that were."""
    from engine.runners.generate import write

    with progress.bar("images", None) as bar:
        images = write(job, out, lambda step, of: bar.advance(len(of) / step.total), bar.expect)
        return sum(1 for _ in images)


def _job_of(chosen: argparse.Namespace, images_per_class: int) -> "Job | BaselineJob":
    """The request that the options of `generate` make."""
    from engine.runners.baseline_job import prepare_baseline
    from engine.runners.job import prepare

    check_methods(chosen)
    if chosen.method in (DDIS, PLAIN):
        return prepare(
            *load_models(chosen),
            chosen.classes,
            images_per_class,
            chosen.tokens,
            alignment_of(chosen),
            sampling_of(chosen),
            chosen.seed,
            chosen.memory,
            chosen.runtime,
            chosen.onnx_cache,
            attention=chosen.attention,
            graphs=not chosen.no_graphs,
        )
    classifier = load_teacher(chosen)
    return prepare_baseline(
        classifier,
        method_of(chosen, classifier),
        chosen.classes,
        images_per_class,
        chosen.seed,
        load_student(chosen, classifier),
    )


def run_learn(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    from engine.runners.learn_tokens import learn_tokens
    from engine.tokens.textual_inversion import export_textual_inversion

    learning = learning_of(chosen)
    classifier, prior = load_models(chosen)
    with progress.bars() as add:
        table = learn_tokens(
            classifier,
            prior,
            chosen.classes,
            learning,
            alignment_of(chosen),
            sampling_of(chosen),
            chosen.seed,
            chosen.out,
            memory=chosen.memory,
            attention=chosen.attention,
            **learning_bars(
                add, learning, classifier.labels, len(chosen.classes or classifier.labels)
            ),
        )
    rows = {
        classifier.labels[index]: asdict(training) for index, training in table.training.items()
    }
    columns = [
        "class",
        "start",
        "outcome",
        "epochs",
        "recognised",
        "loss",
        "UNet forward",
        "backward",
    ]
    lines = [
        [
            name,
            r["start"] if r["moved"] else f"{r['start']}, unmoved",
            r["outcome"],
            str(r["epochs"]),
            f"{r['accuracy']:.0%}",
            f"{r['loss']:.2f}",
            str(r["unet_forward"]),
            str(r["unet_backward"]),
        ]
        for name, r in rows.items()
    ]
    progress.table(f"Tokens in {chosen.out}", columns, lines)
    exported = (
        export_textual_inversion(table, chosen.textual_inversion)
        if chosen.textual_inversion
        else {}
    )
    return {
        "file": str(chosen.out),
        "classes": rows,
        "textual_inversion": {k: str(v) for k, v in exported.items()},
    }


def learning_bars(
    add: AddBar, learning: TokenLearning, labels: Sequence[str], classes: int
) -> dict[str, Any]:
    """Bars for the trial of words and for the epochs of some classes, as the callbacks of `learn_tokens`."""
    from engine.runners.start_word import looked_at, trial_images

    reports = learning.epochs + learning.skip_passing + (learning.check_images > 0)
    trial = add("images that try words", trial_images(learning) * len(looked_at(range(classes))))
    epochs = add("epochs", reports * classes)
    return {
        "on_trial": lambda step, clean: trial.advance(len(clean) / step.total),
        "on_progress": lambda e: epochs.advance(
            detail=f"{labels[e.class_index]}: {e.accuracy:.0%} recognised"
        ),
    }
