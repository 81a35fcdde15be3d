"""`ddis distill`, `ddis prune` and `ddis quantise`: what a folder is worth to the next network."""

import argparse
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from engine.apps.cli_folder import add_folder, check_effects, make_folder, plain_row
from engine.apps.options import add_config, add_fields, config_of
from engine.apps.progress import Progress
from engine.settings.downstream import Comparison, Distillation, Pruning, Quantisation

PROTOCOLS: dict[str, Callable[[], Distillation]] = {
    "short": Distillation.short,
    "long": Distillation.long,
}
DISTILL_HELP = (
    "teach a smaller network on a data set folder, beside original images, plain ones and noise"
)
PRUNE_HELP = (
    "cut channels off the classifier and teach it again on a data set folder, beside other sets"
)
FIT_HELP = "train a BatchNorm classifier on labelled images, such as a style set of your own"
QUANTISE_HELP = "bring the classifier to int8, calibrated on a data set folder, beside other sets"


def add_distill(parser: argparse.ArgumentParser) -> None:
    _add_inputs(parser)
    parser.add_argument(
        "--student",
        help="resnet8, 14, 20, 32, 44, 56 for small images, resnet18, 34, 50 for large "
        "ones (default: resnet14 or resnet18, by the classifier's input)",
    )
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="short",
        help="short: 30 epochs; long: 200, for students that will be used (default: short)",
    )
    add_config(parser, Comparison())
    add_config(parser, Distillation())


def add_prune(parser: argparse.ArgumentParser) -> None:
    _add_inputs(parser)
    add_config(parser, Comparison())
    add_config(parser, Pruning())
    add_config(parser, Distillation.fine_tuning())


def add_quantise(parser: argparse.ArgumentParser) -> None:
    _add_inputs(parser)
    add_config(parser, Comparison())
    add_config(parser, Quantisation())


def run_distill(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    from engine.downstream.distill import distill
    from engine.downstream.students import student_name

    settings = config_of(chosen, PROTOCOLS[chosen.protocol]())
    return _run(
        chosen,
        progress,
        distill,
        "Students",
        lambda classifier: student_name(chosen.student, classifier),
        student=chosen.student,
        distillation=settings,
    )


def run_prune(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    from engine.downstream.prune import prune, pruning_library

    return _run(
        chosen,
        progress,
        prune,
        "Pruned networks",
        lambda _: pruning_library(),
        pruning=config_of(chosen, Pruning()),
        distillation=config_of(chosen, Distillation.fine_tuning()),
    )


def run_quantise(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    from engine.downstream.quantise import check_packages, quantise

    return _run(
        chosen,
        progress,
        quantise,
        "int8 networks",
        lambda _: check_packages(),
        quantisation=config_of(chosen, Quantisation()),
    )


def add_fit(parser: argparse.ArgumentParser) -> None:
    from engine.downstream.fit import FITTING

    parser.add_argument(
        "folder",
        type=Path,
        help="images with one folder a class, a data set folder, or a parquet "
        "file with image and label",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the classifier, a --classifier later"
    )
    parser.add_argument(
        "--architecture",
        help="resnet8, 14, 20, 32, 44, 56 for small images, resnet18, 34, 50 for "
        "large ones (default: resnet20 up to 64 px, else resnet18)",
    )
    parser.add_argument(
        "--image-px",
        type=int,
        help="side that it reads (default: 32 for images up to 64 px, else 224)",
    )
    parser.add_argument(
        "--test", type=Path, metavar="PATH", help="other images that its accuracy is measured on"
    )
    parser.add_argument("--domain", help="only this domain of a parquet file")
    parser.add_argument("--seed", type=int, default=0, help="seed of the run (default: 0)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: the GPU if there is one)")
    group = parser.add_argument_group("How it is trained, on the class of each image")
    add_fields(
        group, FITTING, "", [entry.name for entry in fields(FITTING) if entry.name != "soft_labels"]
    )


def run_fit(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    from engine.downstream.fit import FITTING, fit

    with progress.watching() as events:
        report = fit(
            chosen.folder,
            chosen.out,
            chosen.architecture,
            image_px=chosen.image_px,
            test=chosen.test,
            domain=chosen.domain,
            training=config_of(chosen, FITTING),
            seed=chosen.seed,
            device=chosen.device,
            events=events,
        )
    for line in _fitted(report, chosen):
        progress.say(line)
    return report


def _fitted(report: dict[str, Any], chosen: argparse.Namespace) -> list[str]:
    """What was made of which images, and how well it knows them."""
    shares = [
        f"{100 * share:.1f} % of the {what} images" for what, share in report["accuracy"].items()
    ]
    classes, images = report["classes"], report["images"]["training"]
    names = ", ".join(classes[:20]) + ", ..." * (len(classes) > 20)
    lines = [
        f"{report['architecture']} of {len(classes)} classes ({names}) from {images} images in {chosen.out} recognises "
        f"{', '.join(shares)}. ddis generate --classifier {chosen.out}"
    ]
    if not report["trained"]:
        lines.insert(
            0,
            f"{chosen.out} is there already, of the same images and settings: nothing was trained",
        )
    if "test" not in report["accuracy"]:
        lines.append(
            "no test images given: how well it knows images that it has not seen is not measured (--test)"
        )
    return lines


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    add_folder(parser)
    parser.add_argument(
        "--classifier",
        required=True,
        help="the one that the folder was generated for: embedded:"
        "<domain>, hf:<id or folder>, timm:<name>, torchvision:<name>, onnx:<file>, or a checkpoint "
        "file with --architecture",
    )
    parser.add_argument("--architecture", help="network of a checkpoint file, such as resnet20")
    parser.add_argument(
        "--labels", nargs="+", metavar="NAME", help="class names in the order of the outputs"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder of networks and report; continued if it was cut",
    )
    parser.add_argument(
        "--original",
        type=Path,
        metavar="PATH",
        help="row of original images: a folder with one "
        "folder a class, or a parquet file with image and label",
    )
    parser.add_argument(
        "--test",
        type=Path,
        metavar="PATH",
        help="real images that accuracy is measured on, as "
        "--original (default: agreement with the classifier on a held-out part of the folder)",
    )
    parser.add_argument(
        "--domain", help="only this domain of parquet files of original and test images"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: the GPU if there is one)")


def _run(
    chosen: argparse.Namespace,
    progress: Progress,
    task: Callable[..., dict[str, Any]],
    title: str,
    check: Callable[[Any], object],
    **settings: Any,
) -> dict[str, Any]:
    """One comparison; a folder that is made first waits for `check` of the classifier."""
    from engine.classifiers import load_classifier
    from engine.downstream.comparison import finished_runs

    comparison = config_of(chosen, Comparison())
    check_effects(chosen)
    classifier = load_classifier(
        chosen.classifier,
        architecture=chosen.architecture,
        labels=chosen.labels,
        device=chosen.device,
    )
    if chosen.images_per_class is not None:
        make_folder(chosen, classifier, check, progress)
    plain, prior = plain_row(chosen, classifier, progress)
    done = finished_runs(chosen.out)
    with progress.watching() as events:
        report = task(
            chosen.folder,
            classifier,
            out=chosen.out,
            original=chosen.original,
            plain=plain,
            prior=prior,
            test=chosen.test,
            domain=chosen.domain,
            comparison=comparison,
            events=events,
            **settings,
        )
    columns = ["trained or calibrated on", "images", "accuracy", "agreement with the teacher"]
    lines = [
        [name, str(row["images"]), _share(row["accuracy"]), _share(row["agreement"])]
        for name, row in report["rows"].items()
    ]
    progress.table(
        f"{title}, measured on {report['measured_on']} ({report['measured_images']} images)",
        columns,
        lines,
    )
    progress.say("; ".join(_facts(report)))
    if finished_runs(chosen.out) == done:
        progress.say(f"{chosen.out} was finished already: nothing was computed")
    for warning in report["warnings"]:
        progress.say(f"warning: {warning}")
    progress.say(f"report: {chosen.out / 'report.json'}")
    return report


def _share(found: dict[str, Any] | None) -> str:
    """Mean and spread in percent."""
    if found is None:
        return "not measured"
    spread = "" if found["spread"] is None else f" ± {100 * found['spread']:.1f}"
    return f"{100 * found['mean']:.1f}{spread} %"


def _facts(report: dict[str, Any]) -> list[str]:
    """What the rows are held against, in words."""
    teacher, network = report["teacher"], report["network"]
    facts = []
    if teacher["accuracy"] is not None:
        facts.append(f"the classifier itself: {100 * teacher['accuracy']:.1f} %")
    if report["task"] == "prune":
        before = "agreement" if network["accuracy"] is None else "accuracy"
        facts.append(f"pruned and not taught: {100 * network[before]:.1f} % {before}")
    if "flops" in network:
        facts.append(
            f"{network['parameters'] / teacher['parameters']:.0%} of its parameters, "
            f"{network['flops'] / teacher['flops']:.0%} of its FLOPs"
        )
    elif network["accuracy"] is not None:
        facts.append(f"in float32: {100 * network['accuracy']:.1f} %")
    if "file_bytes" in network:
        int8 = max(row["file_bytes"]["mean"] for row in report["rows"].values())
        facts.append(f"int8 {int8 / 1e6:.2f} MB, float32 {network['file_bytes'] / 1e6:.2f} MB")
    return facts
