"""The command `ddis`. Its options are the fields of the configs; it joins pipelines to outputs and does nothing else.

Exit codes: 0 done, 2 a mistake that the message explains, 130 interrupted (run the same command to continue).
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.baselines.methods import DDIS
from engine.cli_downstream import (
    DISTILL_HELP,
    PRUNE_HELP,
    QUANTISE_HELP,
    add_distill,
    add_prune,
    add_quantise,
    run_distill,
    run_prune,
    run_quantise,
)
from engine.cli_evaluate import add_evaluation, add_selection, run_evaluate, run_select
from engine.cli_memory import PLAN_HELP, PROFILE_HELP, add_plan, add_profile, run_plan, run_profile
from engine.cli_tune import TUNE_HELP, add_tune, run_tune
from engine.config import Sampling
from engine.errors import EngineError
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
from engine.progress import Progress

if TYPE_CHECKING:
    from engine.pipelines.baseline_job import BaselineJob
    from engine.pipelines.job import Job


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `ddis` with these arguments (those of the process if None) and return its exit code."""
    chosen = build_parser().parse_args(arguments)
    progress = Progress(quiet=chosen.json or chosen.quiet)
    try:
        result = chosen.run(chosen, progress)
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: run the same command again to continue where it stopped.", file=sys.stderr)
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

    generate = _command(commands, "generate", run_generate, "write a data set for a classifier")
    add_models(generate)
    add_request(generate)
    generate.add_argument("--images-per-class", type=int, default=8, help="images of each class (default: 8)")
    generate.add_argument("--tokens", type=Path, help="learned class tokens, a file of `ddis learn-tokens`")
    generate.add_argument(
        "--out", type=Path, required=True, help="folder of the data set; continued if it was cut"
    )
    add_memory(generate)
    add_runtime(generate)
    add_alignment(generate)
    add_config(generate, Sampling())
    add_methods(generate)

    learn = _command(
        commands, "learn-tokens", run_learn, "learn a class alignment token (CAT) for each class"
    )
    add_models(learn)
    add_request(learn)
    learn.add_argument(
        "--out", type=Path, required=True, help="token file (.safetensors); continued if it was cut"
    )
    learn.add_argument(
        "--textual-inversion", type=Path, help="also write one file a class here, for diffusers"
    )
    add_memory(learn)
    add_alignment(learn)
    add_config(learn, Sampling())
    add_learning(learn)

    add_tune(_command(commands, "tune", run_tune, TUNE_HELP))
    add_plan(_command(commands, "plan", run_plan, PLAN_HELP))
    add_profile(_command(commands, "profile", run_profile, PROFILE_HELP))

    demo = _command(
        commands, "demo", run_demo, "plain, CAT, DAG and both, side by side, on the embedded models"
    )
    demo.add_argument("--domain", default="cartoon", help="which embedded classifier (default: cartoon)")
    demo.add_argument(
        "--images-per-class", type=int, default=2, help="images of each class and row (default: 2)"
    )
    demo.add_argument(
        "--learn", action="store_true", help="learn the tokens instead of taking those that ship"
    )
    demo.add_argument("--seed", type=int, default=0, help="seed of the images (default: 0)")
    demo.add_argument("--out", type=Path, default=Path("out/demo"), help="folder (default: out/demo)")

    export = _command(commands, "export", run_export, "write a data set folder as WebDataset shards")
    export.add_argument("folder", type=Path, help="a folder of `ddis generate`")
    export.add_argument("--out", type=Path, required=True, help="folder of the shards")
    export.add_argument("--images-per-shard", type=int, default=10_000, help="(default: 10000)")

    add_evaluation(_command(commands, "evaluate", run_evaluate, "measure images against a reference"))
    add_selection(_command(commands, "select", run_select, "keep the better part of a data set"))
    add_distill(_command(commands, "distill", run_distill, DISTILL_HELP))
    add_prune(_command(commands, "prune", run_prune, PRUNE_HELP))
    add_quantise(_command(commands, "quantise", run_quantise, QUANTISE_HELP))
    onnx = _command(
        commands, "export-onnx", run_export_onnx, "write the networks and the guidance gradient as ONNX"
    )
    add_models(onnx)
    onnx.add_argument(
        "--out", type=Path, required=True, help="folder; serves `ddis generate` as its --onnx-cache"
    )
    add_alignment(onnx)

    embedded = commands.add_parser("embedded", help="the models that ship with the package").add_subparsers(
        required=True, metavar="COMMAND"
    )
    check = _command(embedded, "check", run_check, "measure the embedded models against their claims")
    check.add_argument(
        "--data", type=Path, help="folder with pacs64-test.parquet, for accuracies on real images"
    )
    check.add_argument("--images-per-prompt", type=int, default=8, help="samples of each prompt (default: 8)")
    check.add_argument("--seed", type=int, default=0, help="seed of the samples (default: 0)")
    return parser


def run_generate(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    from engine.pipelines.generate import write

    job = _job_of(chosen)
    total = len(job.classes) * job.images_per_class
    with progress.bar("images", total) as bar:
        made = sum(1 for _ in write(job, chosen.out, lambda step, of: bar.advance(len(of) / step.total)))
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
    with progress.bar("epochs", learning.epochs * len(chosen.classes or classifier.labels)) as bar:
        table = learn_tokens(
            classifier, prior, chosen.classes, learning, alignment_of(chosen), sampling_of(chosen),
            chosen.seed, chosen.out,
            lambda e: bar.advance(detail=f"{classifier.labels[e.class_index]}: {e.accuracy:.0%} recognised"),
            memory=chosen.memory, attention=chosen.attention,
        )  # fmt: skip
    rows = {classifier.labels[index]: asdict(training) for index, training in table.training.items()}
    columns = ["class", "outcome", "epochs", "recognised", "loss", "UNet forward", "backward"]
    lines = [
        [name, r["outcome"], str(r["epochs"]), f"{r['accuracy']:.0%}", f"{r['loss']:.2f}", str(r["unet_forward"]),
         str(r["unet_backward"])]
        for name, r in rows.items()
    ]  # fmt: skip
    progress.table(f"Tokens in {chosen.out}", columns, lines)
    exported = export_textual_inversion(table, chosen.textual_inversion) if chosen.textual_inversion else {}
    return {
        "file": str(chosen.out),
        "classes": rows,
        "textual_inversion": {k: str(v) for k, v in exported.items()},
    }


def run_demo(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    from engine.pipelines.demo import ROWS, demo

    units = len(ROWS) * 7 * chosen.images_per_class * Sampling().steps
    with progress.bar("image-steps", units) as bar:
        report = demo(
            chosen.out, chosen.domain, chosen.images_per_class, chosen.learn, chosen.seed, on_step=bar.advance
        )
    columns = ["", "judge: class", f"judge: {chosen.domain}", "teacher: class", "L_BN", "seconds"]
    lines = [
        [row, f"{r['judge_class']:.0%}", f"{r['judge_domain']:.0%}", f"{r['teacher_class']:.0%}", f"{r['l_bn']:.1f}",
         f"{r['seconds']:.1f}"]
        for row, r in report["rows"].items()
    ]  # fmt: skip
    progress.table("The same seeds and neutral prompts; shares of images", columns, lines)
    progress.say(f"report: {chosen.out / 'demo.json'}\ncurve of L_BN: {report['curve']}")
    part = report["guidance_by_classifier"]
    progress.say(
        f"L_BN and its gradient by the images: {part['fused_ms']:.0f} ms fused, {part['hooks_ms']:.0f} ms by hooks, "
        f"{part['speedup']:.2f} times as fast"
    )
    progress.say(f"contact sheet: {report['contact_sheet']}")
    return report


def run_export(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    from engine.outputs.webdataset import export_webdataset

    shards = export_webdataset(chosen.folder, chosen.out, chosen.images_per_shard)
    progress.say(f"{len(shards)} shards in {chosen.out}")
    return {"shards": [str(path) for path in shards]}


def run_export_onnx(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    from engine.models.decoder import decoder_of
    from engine.onnx.export import export_all

    classifier, prior = load_models(chosen)
    alignment = alignment_of(chosen)
    decoder = decoder_of(alignment, prior, classifier.preprocess) if alignment else None
    files = export_all(
        prior, classifier, alignment, decoder, chosen.out, lambda file: progress.say(str(file))
    )
    return {"files": [str(file) for file in files]}


def run_check(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    from engine.pipelines.check_embedded import GOALS, PAIRS, check_embedded

    with progress.bar("prompts", len(PAIRS)) as bar:
        report = check_embedded(
            chosen.data, chosen.images_per_prompt, chosen.seed, lambda prompt: bar.advance(detail=prompt)
        )
    columns = ["measure", "found", "goal"]
    lines = [[name, "not measured" if value is None else f"{value:.3g}", f">= {GOALS[name]:g}"]
             for name, value in report["measures"].items()]  # fmt: skip
    progress.table("Embedded models", columns, lines)
    return report


def _command(commands: Any, name: str, run: Any, help: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help, description=help)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object at the end and nothing else"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.set_defaults(run=run)
    return parser
