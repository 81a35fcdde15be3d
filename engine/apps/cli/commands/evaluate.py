"""`ddis evaluate`: a folder of images against a reference."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from engine.apps.cli import requests
from engine.apps.cli.command import Call, Command, local, needed
from engine.errors import counted
from engine.request import Execution, Request
from engine.settings.evaluation import Evaluation
from engine.settings.fields import setting


@dataclass(frozen=True, kw_only=True)
class Evaluate(Command):
    """Measure images against a reference, or with --classifier alone what the classifier makes of them.

    With --reference, accuracy, confidence and L_BN come from the manifest of `ddis generate`. With --classifier they
    are measured, which works for any images whose folder, or label in a parquet file, is the name of their class.
    """

    module = "engine.evaluation.evaluate"
    names = MappingProxyType({"statistics": "save-statistics"})
    options = ("request.classifier.*", "execution.device", "evaluation.*")
    common = (
        *("reference", "features", "classifier", "domain", "architecture", "labels", "device"),
        *("inception-weights", "save-statistics", "moments-only", "out", "resamples"),
    )

    folder: tuple[Path, ...] = needed(
        "a folder of `ddis generate`, any folder of images, or a parquet file; several are measured as one set",
        positional=True,
    )
    reference: str | None = local(
        "a folder of images, a parquet file, a .safetensors file of --save-statistics, or judge: the embedded real "
        "features",
        "SOURCE",
    )
    features: str = setting(
        "judge",
        "network whose features are compared: judge, classifier:<source> or inception",
        "SOURCE",
    )
    domain: str | None = local(
        "only this domain of parquet files that have a column of domains, images and reference alike, and of the "
        "judge's reference; a folder has none and is taken whole",
        "NAME",
    )
    inception_weights: Path | None = local("local file of Inception's weights", "FILE")
    statistics: Path | None = local("keep the folder's features, to be a --reference", "FILE")
    moments_only: bool = setting(False, "keep their mean and covariance alone: enough for FID")
    out: Path | None = local("also write the report here, as JSON, for `ddis report`", "FILE")
    request: Request = field(default_factory=Request)
    execution: Execution = field(default_factory=Execution)
    evaluation: Evaluation = field(default_factory=Evaluation)

    def run(self, call: Call) -> dict[str, Any]:
        from engine.evaluation.evaluate import evaluate
        from engine.evaluation.extractors import load_extractor
        from engine.files import check_writable, write_whole

        if self.out is not None:
            check_writable(self.out)
        classifier, network = self._classifier()
        extractor = load_extractor(
            self.features, self.execution.device, weights=self.inception_weights, **network
        )
        report = evaluate(
            self.folder,
            self.reference,
            extractor,
            domain=self.domain,
            settings=self.evaluation,
            statistics=self.statistics,
            moments_only=self.moments_only,
            classifier=classifier,
            events=call.events,
        )
        columns = ["metric", "value", f"{report['level']:.0%} from", "to"]
        lines = [[call.in_flags(word) for word in line] for line in _lines(report)]
        call.screen.table(_title(report), columns, lines, result=True)
        if report["features"] is not None:
            call.screen.say(f"features of {report['features']}", result=True)
        for warning in report["warnings"]:
            call.screen.say(f"warning: {call.in_flags(warning)}")
        if self.out is not None:
            write_whole(self.out, json.dumps(report, indent=1).encode() + b"\n")
        return report

    def _classifier(self) -> tuple[Any, dict[str, Any]]:
        """The classifier that is asked, if any, and what the network of --features is loaded with.

        Architecture and labels are of the one that is named by a checkpoint file: of --classifier, unless the features
        are a classifier's.
        """
        from engine.evaluation.extractors import CLASSIFIER

        source = self.request.classifier
        network = {"architecture": source.architecture, "labels": source.labels}
        if not source.source:
            return None, network
        shared = self.features == f"{CLASSIFIER}{source.source}"
        own = shared or not self.features.startswith(CLASSIFIER)
        bare = type(source)(source=source.source)
        classifier = requests.load_classifier_of(source if own else bare, self.execution)
        return classifier, network if shared or not own else {}


def _title(report: dict[str, Any]) -> str:
    """Both sets, each with its domain and its number of images."""

    def of(name: str, domain: str | None, images: int) -> str:
        return f"{name}{'' if domain is None else f' ({domain})'}: {counted(images, 'image')}"

    measured = of(report["folder"], report["images_domain"], report["images"])
    if report["reference"] is None:
        return f"{measured}, without a reference"
    reference = of(report["reference"], report["reference_domain"], report["reference_images"])
    return f"{measured}, compared with {reference} of the reference"


def _lines(report: dict[str, Any]) -> list[list[str]]:
    """A line for each metric that was measured, then one for all that lack the same thing."""
    bounds = ("value", "low", "high")
    lines = [
        [name, *("" if entry[key] is None else f"{entry[key]:.4g}" for key in bounds)]
        for name, entry in report["metrics"].items()
        if entry
    ]
    lacking: dict[str, list[str]] = {}
    for name, what in report["missing"].items():
        lacking.setdefault(what, []).append(name)
    return lines + [[", ".join(names), what, "", ""] for what, names in lacking.items()]
