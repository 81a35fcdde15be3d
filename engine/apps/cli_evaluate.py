"""`ddis evaluate`: a folder of images against a reference; `ddis select`: the better part of a data set."""

import argparse
import json
from pathlib import Path
from typing import Any

from engine.apps.options import add_config, config_of
from engine.apps.progress import Progress
from engine.errors import ConfigError
from engine.settings import Evaluation, Selection


def add_evaluation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        type=Path,
        nargs="+",
        help="a folder of `ddis generate`, any folder of images, or a "
        "parquet file; several are measured as one set",
    )
    parser.add_argument(
        "--reference",
        help="a folder of images, a parquet file, a .safetensors file of "
        "--save-statistics, or judge: the embedded real features",
    )
    parser.add_argument(
        "--features",
        default="judge",
        help="network whose features are compared: judge, "
        "classifier:<source> or inception (default: judge)",
    )
    parser.add_argument(
        "--classifier",
        help="ask this one for accuracy, confidence and L_BN of the images, of which "
        "each class lies in a folder of its name or has it as its label (default: what the manifest "
        "of `ddis generate` says)",
    )
    parser.add_argument(
        "--domain",
        help="only this domain of parquet files with a column `domain`, measured ones as "
        "well as the reference, and of the judge's reference; a folder has none and is taken "
        "whole",
    )
    parser.add_argument(
        "--architecture", help="network of a checkpoint file behind classifier: or --classifier"
    )
    parser.add_argument("--labels", nargs="+", metavar="NAME", help="its class names, in order")
    parser.add_argument("--inception-weights", type=Path, help="local file of Inception's weights")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: the GPU if there is one)")
    parser.add_argument(
        "--save-statistics",
        type=Path,
        metavar="FILE",
        help="keep the folder's features, to be a --reference",
    )
    parser.add_argument(
        "--moments-only",
        action="store_true",
        help="keep their mean and covariance alone: enough for FID",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="also write the report here, as JSON"
    )
    add_config(parser, Evaluation())


def run_evaluate(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    from engine.evaluation.evaluate import evaluate
    from engine.evaluation.extractors import load_extractor
    from engine.files import check_writable, write_whole

    if chosen.out is not None:
        check_writable(chosen.out)
    classifier, network = _teacher(chosen)
    extractor = load_extractor(
        chosen.features, chosen.device, weights=chosen.inception_weights, **network
    )
    with progress.watching() as events:
        report = evaluate(
            chosen.folder,
            chosen.reference,
            extractor,
            domain=chosen.domain,
            settings=config_of(chosen, Evaluation()),
            statistics=chosen.save_statistics,
            moments_only=chosen.moments_only,
            classifier=classifier,
            events=events,
        )
    progress.table(
        _title(report),
        ["metric", "value", f"{report['level']:.0%} from", "to"],
        _lines(report),
        result=True,
    )
    if report["features"] is not None:
        progress.say(f"features of {report['features']}", result=True)
    for warning in report["warnings"]:
        progress.say(f"warning: {warning}")
    if chosen.out is not None:
        write_whole(chosen.out, json.dumps(report, indent=1).encode() + b"\n")
    return report


def _teacher(chosen: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The classifier that is asked, if any, and what the network of --features is told.

    Architecture and labels are of the one that is named by a checkpoint file: of --classifier, unless the features are
    a classifier's.
    """
    from engine.classifiers import load_classifier
    from engine.evaluation.extractors import CLASSIFIER

    network = {"architecture": chosen.architecture, "labels": chosen.labels}
    if chosen.classifier is None:
        return None, network
    shared = chosen.features == f"{CLASSIFIER}{chosen.classifier}"
    own = shared or not chosen.features.startswith(CLASSIFIER)
    classifier = load_classifier(
        chosen.classifier, device=chosen.device, **(network if own else {})
    )
    return classifier, network if shared or not own else {}


def _title(report: dict[str, Any]) -> str:
    """Both sets, each with its domain and its number of images."""

    def of(name: str, domain: str | None, images: int) -> str:
        return f"{name}{'' if domain is None else f' ({domain})'}: {images} images"

    measured = of(report["folder"], report["images_domain"], report["images"])
    if report["reference"] is None:
        return f"{measured}, without a reference"
    reference = of(report["reference"], report["reference_domain"], report["reference_images"])
    return f"{measured}, beside {reference} of the reference"


def _lines(report: dict[str, Any]) -> list[list[str]]:
    """A line for each metric that was measured, then one for all that lack the same thing."""
    lines = [
        [
            name,
            *(
                "" if entry[key] is None else f"{entry[key]:.4g}"
                for key in ("value", "low", "high")
            ),
        ]
        for name, entry in report["metrics"].items()
        if entry
    ]
    lacking: dict[str, list[str]] = {}
    for name, what in report["missing"].items():
        lacking.setdefault(what, []).append(name)
    return lines + [[", ".join(names), what, "", ""] for what, names in lacking.items()]


def add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="a finished folder of `ddis generate`")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the kept images, a data set too"
    )
    parser.add_argument(
        "--classifier",
        help="what the folder was made with, for l_bn_share (default: "
        "the one that its run.json names)",
    )
    parser.add_argument("--architecture", help="network of a checkpoint file, for l_bn_share")
    parser.add_argument(
        "--labels", nargs="+", metavar="NAME", help="its class names, in order, for l_bn_share"
    )
    parser.add_argument(
        "--device", help="cpu, cuda, cuda:1, for l_bn_share (default: the GPU if there is one)"
    )
    add_config(parser, Selection())


def run_select(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    from engine.classifiers import load_classifier
    from engine.evaluation.select import load_teacher, select

    classifier, selection = None, config_of(chosen, Selection())
    network = {
        "architecture": chosen.architecture,
        "labels": chosen.labels,
        "device": chosen.device,
    }
    unread = [name for name in ("classifier", *network) if getattr(chosen, name) is not None]
    if unread and selection.by != "l_bn_share":
        raise ConfigError(
            f"{', '.join(f'--{name}' for name in unread)} came with --by {selection.by}, expected none: only "
            f"l_bn_share looks at the images. Leave {'it' if len(unread) == 1 else 'them'} out."
        )
    if chosen.classifier is not None:
        classifier = load_classifier(chosen.classifier, **network)
    elif selection.by == "l_bn_share":
        classifier = load_teacher(chosen.folder, **network)
    with progress.watching() as events:
        report = select(chosen.folder, chosen.out, selection, classifier, events)
    progress.say(
        f"{report['kept']} of {report['images']} images in {chosen.out}; the teacher recognises "
        f"{report['recognised_kept']} of them, of all {report['recognised']}."
    )
    return report
