"""`ddis statistics`: what a classifier's owner can tell of its training images."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.apps.cli import requests
from engine.apps.cli.command import Call, Command, local, needed
from engine.errors import counted
from engine.request import Execution, Request
from engine.settings.statistics import StatisticsExport


@dataclass(frozen=True, kw_only=True)
class WriteStatistics(Command):
    """Write statistics of a classifier's training images.

    Whoever has the images runs it once, on any network. The file, which holds no image, lets others guide images by it:
    `ddis generate --classifier CLASSIFIER --statistics FILE`.
    """

    module = "engine.evaluation.export_statistics"
    options = (
        "request.classifier.architecture",
        "request.classifier.weights",
        "request.classifier.reads.*",
        "request.classifier.labels",
        "execution.device",
        "statistics_export.*",
    )
    common = (
        *("classifier", "images", "out", "domain", "layers", "features", "epsilon", "public"),
        *("architecture", "labels", "mean", "std", "device"),
    )

    classifier: str = needed(
        "embedded:<domain>, hf:<id or folder>, timm:<name>, torchvision:<name>, onnx:<file>, or a checkpoint file",
        "CLASSIFIER",
        positional=True,
    )
    images: Path = needed(
        "its training images: a folder, a data set folder, or a parquet file",
        "IMAGES",
        positional=True,
    )
    out: Path = needed("the file, whose name ends in .safetensors", "FILE")
    domain: str | None = local("only this domain of a parquet file", "NAME")
    statistics_export: StatisticsExport = field(default_factory=StatisticsExport)
    request: Request = field(default_factory=Request)
    execution: Execution = field(default_factory=Execution)

    def run(self, call: Call) -> dict[str, Any]:
        from engine.evaluation.export_statistics import export_statistics

        source = replace(self.request.classifier, source=self.classifier, statistics="none")
        report = export_statistics(
            requests.load_classifier_of(source, self.execution),
            self.images,
            self.out,
            self.statistics_export,
            domain=self.domain,
            events=call.events,
        )
        channels = sum(layer["channels"] for layer in report["layers"])
        call.screen.say(
            f"{self.out}: moments of {counted(channels, 'channel')} in {counted(len(report['layers']), 'layer call')} "
            f"over {counted(report['images'], 'image')}{_kept(report['privacy'])}. "
            f"To guide by it: ddis generate --classifier {self.classifier} --statistics {self.out} --out FOLDER"
        )
        return report


def _kept(privacy: dict[str, Any] | None) -> str:
    if privacy is None:
        return ", exact"
    return (
        f", ({privacy['epsilon']:g}, {privacy['delta']:g})-differentially private; noise is {privacy['noise']:.2g} of "
        "each number's unit"
    )
