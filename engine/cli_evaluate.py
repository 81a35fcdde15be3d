"""`ddis evaluate`: a folder of images against a reference; `ddis select`: the better part of a data set."""

import argparse
import json
from pathlib import Path
from typing import Any

from engine.config import Evaluation, Selection
from engine.errors import ConfigError
from engine.options import add_config, config_of
from engine.progress import Progress


def add_evaluation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, nargs="+", help="a folder of `ddis generate`, or any folder of images; "
                        "several are measured as one set")  # fmt: skip
    parser.add_argument("--reference", help="a folder of images, a parquet file, a .safetensors file of "
                        "--save-statistics, or judge: the embedded real features")  # fmt: skip
    parser.add_argument("--features", default="judge", help="network whose features are compared: judge, "
                        "classifier:<source> or inception (default: judge)")  # fmt: skip
    parser.add_argument("--domain", help="only this domain of a parquet file or of the judge's reference")
    parser.add_argument("--architecture", help="network of a checkpoint file behind classifier:")
    parser.add_argument("--labels", nargs="+", metavar="NAME", help="its class names, in order")
    parser.add_argument("--inception-weights", type=Path, help="local file of Inception's weights")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: the GPU if there is one)")
    parser.add_argument(
        "--save-statistics", type=Path, metavar="FILE", help="keep the folder's features, to be a --reference"
    )
    parser.add_argument(
        "--moments-only", action="store_true", help="keep their mean and covariance alone: enough for FID"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the report here, as JSON")
    add_config(parser, Evaluation())


def run_evaluate(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    from engine.evaluation.evaluate import evaluate
    from engine.evaluation.extractors import load_extractor
    from engine.files import write_whole

    extractor = load_extractor(
        chosen.features, chosen.device, weights=chosen.inception_weights, architecture=chosen.architecture,
        labels=chosen.labels,
    )  # fmt: skip
    with progress.bar("images and resamples", None) as bar:
        report = evaluate(
            chosen.folder, chosen.reference, extractor, domain=chosen.domain,
            settings=config_of(chosen, Evaluation()), statistics=chosen.save_statistics,
            moments_only=chosen.moments_only, on_step=bar.advance,
        )  # fmt: skip
    lines = [[name, *("" if entry[key] is None else f"{entry[key]:.4g}" for key in ("value", "low", "high"))]
             for name, entry in report["metrics"].items() if entry]  # fmt: skip
    title = f"{report['images']} images, {report['reference_images'] or 'none'} of the reference"
    progress.table(title, ["metric", "value", f"{report['level']:.0%} from", "to"], lines)
    progress.say(f"features of {report['features']}")
    for warning in report["warnings"]:
        progress.say(f"warning: {warning}")
    if chosen.out is not None:
        write_whole(chosen.out, json.dumps(report, indent=1).encode() + b"\n")
    return report


def add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="a finished folder of `ddis generate`")
    parser.add_argument("--out", type=Path, required=True, help="folder of the kept images, a data set too")
    parser.add_argument("--classifier", help="what the folder was made with, for l_bn_share")
    parser.add_argument("--architecture", help="network of a checkpoint file")
    parser.add_argument("--labels", nargs="+", metavar="NAME", help="its class names, in order")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: the GPU if there is one)")
    add_config(parser, Selection())


def run_select(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    from engine.evaluation.select import select
    from engine.models import load_classifier

    classifier, selection = None, config_of(chosen, Selection())
    if chosen.classifier is not None and selection.by != "l_bn_share":
        raise ConfigError(
            f"--classifier came with --by {selection.by}, expected none: only l_bn_share looks at the images. Leave it "
            "out."
        )
    if chosen.classifier is not None:
        classifier = load_classifier(
            chosen.classifier, architecture=chosen.architecture, labels=chosen.labels, device=chosen.device
        )
    with progress.bar("images", None) as bar:
        report = select(chosen.folder, chosen.out, selection, classifier, bar.advance)
    progress.say(
        f"{report['kept']} of {report['images']} images in {chosen.out}; the teacher recognises "
        f"{report['recognised_kept']} of them, of all {report['recognised']}."
    )
    return report
