"""`ddis tune`: the length of a guidance step, found without data."""

import argparse
from pathlib import Path
from typing import Any

from engine.apps.options import (
    add_alignment,
    add_config,
    add_models,
    add_request,
    alignment_of,
    load_models,
    sampling_of,
)
from engine.apps.progress import Progress
from engine.errors import ConfigError
from engine.settings import Sampling

TUNE_HELP = "find the scale of guidance from the classifier alone"


def add_tune(parser: argparse.ArgumentParser) -> None:
    add_models(parser)
    add_request(parser)
    parser.add_argument(
        "--tokens", type=Path, help="learned class tokens, a file of `ddis learn-tokens`"
    )
    parser.add_argument(
        "--scales",
        type=float,
        nargs="+",
        metavar="SCALE",
        help="scales to try (default: those that suit relative steps)",
    )
    parser.add_argument(
        "--images-per-class",
        type=int,
        default=4,
        help="images of each class and scale (default: 4)",
    )
    add_alignment(parser)
    add_config(parser, Sampling())


def run_tune(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    from engine.runners.tune import SCALES, ScaleTrial, tune

    alignment, sampling = alignment_of(chosen), sampling_of(chosen)
    if alignment is None:
        raise ConfigError(
            "--alignment none has no scale to tune, expected default or paper: choose one of these."
        )
    if hasattr(chosen, "alignment-scale"):
        raise ConfigError(
            f"--alignment-scale {getattr(chosen, 'alignment-scale'):g} has no effect in tune, expected the scales to "
            "try: name them by --scales, or leave it out."
        )
    if alignment.step == "raw" and not chosen.scales:
        raise ConfigError(
            "raw steps are in units of a classifier's own gradient and there are no --scales, expected some: no list "
            "suits all classifiers. Name scales over several powers of ten."
        )
    classifier, prior = load_models(chosen)
    scales = chosen.scales or SCALES
    number = len(set(scales)) * len(chosen.classes or classifier.labels) * chosen.images_per_class
    with progress.bar("images", number) as bar:

        def told(trial: ScaleTrial) -> None:
            bar.advance(0, detail=f"scale {trial.scale:g}: score {trial.score:.2f}")

        found = tune(
            classifier,
            prior,
            chosen.classes,
            chosen.tokens,
            alignment,
            sampling,
            scales,
            chosen.images_per_class,
            chosen.seed,
            told,
            lambda _, clean: bar.advance(len(clean) / sampling.steps),
        )
    columns = [
        "scale",
        "L_BN of views",
        "cross-entropy of views",
        "score",
        "recognised",
        "in every view",
    ]
    lines = [
        [
            f"{t.scale:g}",
            "-" if t.l_bn is None else f"{t.l_bn:.3g}",
            f"{t.cross_entropy:.3g}",
            f"{t.score:.2f}",
            f"{t.recognised:.0%}",
            f"{t.agreement:.0%}",
        ]
        for t in found.trials
    ]
    progress.table(
        f"Scale {found.alignment.scale:g} has the least score", columns, lines, result=True
    )
    preset = "" if chosen.alignment == "default" else f"--alignment {chosen.alignment} "
    progress.say(
        f"ddis generate ... {preset}--alignment-scale {found.alignment.scale:g}", result=True
    )
    return found.to_json()
