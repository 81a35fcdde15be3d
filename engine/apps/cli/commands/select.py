"""`ddis select`: the better part of a data set."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.apps.cli.command import RESUMES, Call, Command, needed
from engine.errors import ConfigError, counted
from engine.request import Execution, Request
from engine.settings.selection import Selection


@dataclass(frozen=True, kw_only=True)
class Select(Command):
    """Keep the better part of a data set.

    The order l_bn_share runs the classifier that the folder was made for: the one that its run.json names, unless
    --classifier says where it is now.
    """

    module = "engine.evaluation.select"
    options = ("request.classifier.*", "execution.device", "selection.*")
    common = (
        *("folder", "out", "keep", "by", "agreement", "selection-seed"),
        *("classifier", "architecture", "labels", "statistics", "device"),
    )
    interrupted = RESUMES

    folder: Path = needed("a finished folder of `ddis generate`", positional=True)
    out: Path = needed("folder of the kept images, a data set too")
    selection: Selection = field(default_factory=Selection)
    request: Request = field(default_factory=Request)
    execution: Execution = field(default_factory=Execution)

    def run(self, call: Call) -> dict[str, Any]:
        from engine.classifiers import load_classifier
        from engine.evaluation.select import classifier_of, select

        unread = [
            path.removesuffix(".source").rpartition(".")[2]
            for path in sorted(call.given)
            if path.startswith(("request.classifier", "execution"))
        ]
        if unread and self.selection.by != "l_bn_share":
            raise ConfigError(
                f"{', '.join(f'--{name}' for name in unread)} came with --by {self.selection.by}, expected none: only "
                f"l_bn_share looks at the images. Leave {'it' if len(unread) == 1 else 'them'} out."
            )
        source, classifier = self.request.classifier, None
        network: dict[str, Any] = {
            "architecture": source.architecture,
            "weights": source.weights,
            "reads": source.reads,
            "labels": source.labels,
            "device": self.execution.device,
            "statistics": source.statistics,
        }
        if self.selection.by == "l_bn_share" and source.source:
            classifier = load_classifier(source.source, **network)
        elif self.selection.by == "l_bn_share":
            classifier = classifier_of(self.folder, **network)
        report = select(self.folder, self.out, self.selection, classifier, call.events)
        call.screen.say(
            f"{report['kept']} of {counted(report['images'], 'image')} in {self.out}; the classifier recognises "
            f"{report['recognised_kept']} of these, and {report['recognised']} of all {report['images']}."
        )
        return report
