"""`ddis generate`: a data set for a classifier; `ddis learn-tokens`: a token for each of its classes."""

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.apps.options import (
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
    execution_of,
    learning_of,
    load_models,
    method_of,
    request_of,
    sampling_of,
)
from engine.apps.progress import Progress
from engine.errors import ConfigError
from engine.settings import Alignment, Sampling, Selection

if TYPE_CHECKING:
    from engine.methods.base import Prepared

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
    prepared = _prepared(chosen, chosen.images_per_class)
    total = len(prepared.labels) * chosen.images_per_class
    made = _made(prepared, chosen.out, progress)
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
    from engine.evaluation.select import select, selected_from
    from engine.runners.local import made_by

    number = many_images(chosen.images_per_class, chosen.over_generate)
    out = chosen.out.resolve()
    every = out.with_name(f"{out.name}-all")
    prepared = _prepared(chosen, number)
    selection = Selection(keep=chosen.images_per_class / number)
    with open_dataset(chosen.out, selected_from(made_by(prepared), selection), prepared.labels):
        pass  # refuses now what it would refuse once all images are made
    made = _made(prepared, every, progress)
    with progress.watching() as events:
        report = select(every, chosen.out, selection, prepared.classifier, events)
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


def _made(prepared: "Prepared", out: Path, progress: Progress) -> int:
    """Write what is missing of a folder, and say how many images that were."""
    from engine.runners.local import LocalRunner

    with progress.watching() as events:
        return sum(1 for _ in LocalRunner(out, events=events).images(prepared))


def _prepared(chosen: argparse.Namespace, images_per_class: int) -> "Prepared":
    """The request that the options of `generate` make, with its models loaded."""
    from engine.methods.models import Given, Models
    from engine.methods.registry import prepare

    check_methods(chosen)
    request, execution = request_of(chosen, images_per_class), execution_of(chosen)
    first = Models(request, execution)
    request = replace(request, method=method_of(chosen, lambda: first.classifier))
    given = Given(classifier=first.__dict__.get("classifier"))
    return prepare(request, Models(request, execution, given), execution)


def run_learn(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    from engine.runners.learn_tokens import learn_tokens
    from engine.tokens.textual_inversion import export_textual_inversion

    learning = learning_of(chosen)
    classifier, prior = load_models(chosen)
    alignment = alignment_of(chosen)
    with progress.watching() as events:
        table = learn_tokens(
            classifier,
            prior,
            chosen.classes,
            learning,
            seed=chosen.seed,
            method="plain" if alignment is None else "ddis",
            alignment=alignment or Alignment(),
            sampling=sampling_of(chosen),
            memory=chosen.memory,
            attention=chosen.attention,
            out=chosen.out,
            events=events,
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
