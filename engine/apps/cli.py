"""The command `ddis`. Its options are the fields of the configs; it joins pipelines to outputs and does nothing else.

Exit codes: 0 done, 2 a mistake that the message explains, 130 interrupted (the message says what the same command does
then).
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.apps.cli_downstream import (
    DISTILL_HELP,
    FIT_HELP,
    PRUNE_HELP,
    QUANTISE_HELP,
    add_distill,
    add_fit,
    add_prune,
    add_quantise,
    run_distill,
    run_fit,
    run_prune,
    run_quantise,
)
from engine.apps.cli_embedded import CHECK_HELP, DEMO_HELP, add_check, add_demo, run_check, run_demo
from engine.apps.cli_evaluate import add_evaluation, add_selection, run_evaluate, run_select
from engine.apps.cli_generate import (
    GENERATE_HELP,
    LEARN_HELP,
    add_generate,
    add_learn,
    run_generate,
    run_learn,
)
from engine.apps.cli_memory import (
    PLAN_HELP,
    PROFILE_HELP,
    add_plan,
    add_profile,
    run_plan,
    run_profile,
)
from engine.apps.cli_tune import TUNE_HELP, add_tune, run_tune
from engine.apps.options import add_alignment, add_models, alignment_of, load_models
from engine.apps.progress import Progress
from engine.errors import EngineError

CONTINUES = "run the same command again to continue where it stopped."
STARTS_ANEW = "nothing of this run was kept, the same command starts anew."
DEMO_STARTS_ANEW = "the same command starts anew, but for what --learn has learned so far."
EMPTY_FIRST = (
    "the shards so far are not continued: empty the folder, then run the same command again."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `ddis` with these arguments (those of the process if None) and return its exit code."""
    chosen = build_parser().parse_args(arguments)
    progress = Progress(quiet=chosen.quiet, silent=chosen.json)
    try:
        result = chosen.run(chosen, progress)
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted: {chosen.interrupted}", file=sys.stderr)
        return 130
    if chosen.json:
        print(json.dumps(result))
    return 0


def build_parser() -> argparse.ArgumentParser:
    """All commands and options."""
    parser = argparse.ArgumentParser(
        prog="ddis",
        description="From a pretrained classifier and none of its data: images like its training set.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    add_generate(_command(commands, "generate", run_generate, GENERATE_HELP, interrupted=CONTINUES))
    add_learn(_command(commands, "learn-tokens", run_learn, LEARN_HELP, interrupted=CONTINUES))
    add_tune(_command(commands, "tune", run_tune, TUNE_HELP))
    add_plan(_command(commands, "plan", run_plan, PLAN_HELP))
    add_profile(_command(commands, "profile", run_profile, PROFILE_HELP))

    add_demo(_command(commands, "demo", run_demo, DEMO_HELP, DEMO_STARTS_ANEW))

    export = _command(
        commands, "export", run_export, "write a data set folder as WebDataset shards", EMPTY_FIRST
    )
    export.add_argument("folder", type=Path, help="a folder of `ddis generate`")
    export.add_argument("--out", type=Path, required=True, help="folder of the shards")
    export.add_argument("--images-per-shard", type=int, default=10_000, help="(default: 10000)")

    add_evaluation(
        _command(commands, "evaluate", run_evaluate, "measure images against a reference")
    )
    add_selection(
        _command(
            commands,
            "select",
            run_select,
            "keep the better part of a data set",
            interrupted=CONTINUES,
        )
    )
    add_fit(_command(commands, "fit", run_fit, FIT_HELP))
    add_distill(_command(commands, "distill", run_distill, DISTILL_HELP, interrupted=CONTINUES))
    add_prune(_command(commands, "prune", run_prune, PRUNE_HELP, interrupted=CONTINUES))
    add_quantise(_command(commands, "quantise", run_quantise, QUANTISE_HELP, interrupted=CONTINUES))
    onnx = _command(
        commands,
        "export-onnx",
        run_export_onnx,
        "write the networks and the guidance gradient as ONNX",
    )
    add_models(onnx)
    onnx.add_argument(
        "--out", type=Path, required=True, help="folder; serves `ddis generate` as its --onnx-cache"
    )
    add_alignment(onnx)

    embedded = commands.add_parser(
        "embedded", help="the models that ship with the package"
    ).add_subparsers(required=True, metavar="COMMAND")
    add_check(_command(embedded, "check", run_check, CHECK_HELP))
    return parser


def run_export(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    from engine.datasets.webdataset import export_webdataset

    shards = export_webdataset(chosen.folder, chosen.out, chosen.images_per_shard)
    progress.say(f"{len(shards)} shards in {chosen.out}")
    return {"shards": [str(path) for path in shards]}


def run_export_onnx(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    from engine.models.decoder import decoder_of
    from engine.onnx.export import export_all

    classifier, prior = load_models(chosen)
    alignment = alignment_of(chosen)
    decoder = decoder_of(alignment, prior, classifier.preprocess) if alignment else None
    with progress.watching() as events:
        files = export_all(prior, classifier, alignment, decoder, chosen.out, events)
    for file in files:
        progress.say(str(file))
    return {"files": [str(file) for file in files]}


def _command(
    commands: Any, name: str, run: Any, help: str, interrupted: str = STARTS_ANEW
) -> argparse.ArgumentParser:
    """A command. interrupted: what it says where it was cut, of what it had written."""
    parser = commands.add_parser(name, help=help, description=help)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object at the end and nothing else"
    )
    parser.add_argument(
        "--quiet", action="store_true", help="no progress bars; results are still printed"
    )
    parser.set_defaults(run=run, interrupted=interrupted)
    return parser
