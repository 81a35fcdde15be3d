"""`ddis demo`: what the method does, on the models that ship; `ddis embedded check`: what these models reach."""

import argparse
from pathlib import Path
from typing import Any

from engine.apps.progress import Progress

DEMO_HELP = "plain, CAT, DAG and both, side by side, on the embedded models"
CHECK_HELP = "measure the embedded models against their claims"


def add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--domain", default="cartoon", help="which embedded classifier (default: cartoon)"
    )
    parser.add_argument(
        "--images-per-class", type=int, default=2, help="images of each class and row (default: 2)"
    )
    parser.add_argument(
        "--learn", action="store_true", help="learn the tokens instead of taking those that ship"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the images (default: 0)")
    parser.add_argument(
        "--out", type=Path, default=Path("out/demo"), help="folder (default: out/demo)"
    )


def add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, help="folder with pacs64-test.parquet, for accuracies on real images"
    )
    parser.add_argument(
        "--images-per-prompt", type=int, default=8, help="samples of each prompt (default: 8)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the samples (default: 0)")


def run_demo(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    from engine.apps.demo import demo

    with progress.watching() as events:
        report = demo(
            chosen.out, chosen.domain, chosen.images_per_class, chosen.learn, chosen.seed, events
        )
    columns = ["", "judge: class", f"judge: {chosen.domain}", "teacher: class", "L_BN", "seconds"]
    lines = [
        [
            row,
            f"{r['judge_class']:.0%}",
            f"{r['judge_domain']:.0%}",
            f"{r['teacher_class']:.0%}",
            f"{r['l_bn']:.1f}",
            f"{r['seconds']:.1f}",
        ]
        for row, r in report["rows"].items()
    ]
    progress.table("The same seeds and prompts without a style; shares of images", columns, lines)
    with_tokens = (
        ", ".join(report["tokens"]) or "no class, as none was found that helps this classifier"
    )
    progress.say(f"tokens of {with_tokens}")
    progress.say(f"report: {chosen.out / 'demo.json'}\ncurve of L_BN: {report['curve']}")
    part = report["guidance_by_classifier"]
    progress.say(
        f"L_BN and its gradient by the images: {part['fused_ms']:.0f} ms fused, {part['hooks_ms']:.0f} ms by hooks, "
        f"{part['speedup']:.2f} times as fast"
    )
    progress.say(f"contact sheet: {report['contact_sheet']}")
    return report


def run_check(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    from engine.apps.check_embedded import GOALS, check_embedded

    with progress.watching() as events:
        report = check_embedded(chosen.data, chosen.images_per_prompt, chosen.seed, events)
    columns = ["measure", "found", "goal"]
    lines = [
        [name, "not measured" if value is None else f"{value:.3g}", f">= {GOALS[name]:g}"]
        for name, value in report["measures"].items()
    ]
    progress.table("Embedded models", columns, lines)
    return report
