"""`ddis fit`: a classifier of one's own images."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.apps.cli.command import Call, Command, local, needed
from engine.errors import counted
from engine.request import Execution
from engine.settings.downstream import Distillation
from engine.settings.fields import setting


@dataclass(frozen=True, kw_only=True)
class Fit(Command):
    """Train a BatchNorm classifier on labelled images, such as a style set of your own."""

    module = "engine.downstream.fit"
    options = (
        "execution.device",
        "fitting.epochs",
        "fitting.batch",
        "fitting.learning_rate",
        "fitting.weight_decay",
        "fitting.temperature",
        "fitting.augment",
    )

    folder: Path = needed(
        "images with one folder a class, a data set folder, or a parquet file with image and label",
        positional=True,
    )
    out: Path = needed("folder of the classifier, a --classifier later")
    architecture: str | None = setting(
        None,
        "resnet8, 14, 20, 32, 44, 56 for small images, resnet18, 34, 50 for large ones; by default resnet20 up to 64 "
        "px, else resnet18",
        "NAME",
    )
    image_px: int | None = setting(
        None, "side that it reads; by default 32 for images up to 64 px, else 224"
    )
    test: Path | None = local("other images that its accuracy is measured on", "PATH")
    domain: str | None = local("only this domain of a parquet file", "NAME")
    seed: int = setting(0, "seed of the run")
    fitting: Distillation = field(default_factory=Distillation.fitting)
    execution: Execution = field(default_factory=Execution)

    def run(self, call: Call) -> dict[str, Any]:
        from engine.downstream.fit import fit

        report = fit(
            self.folder,
            self.out,
            self.architecture,
            image_px=self.image_px,
            test=self.test,
            domain=self.domain,
            training=self.fitting,
            seed=self.seed,
            device=self.execution.device,
            events=call.events,
        )
        for line in self._told(report):
            call.screen.say(line, result=True)
        return report

    def _told(self, report: dict[str, Any]) -> list[str]:
        """What was made of which images, and how well it knows them."""
        shares = [
            f"{100 * share:.1f} % of the {what} images"
            for what, share in report["accuracy"].items()
        ]
        classes, images = report["classes"], report["images"]["training"]
        names = ", ".join(classes[:20]) + ", ..." * (len(classes) > 20)
        lines = [
            f"{report['architecture']} of {counted(len(classes), 'class')} ({names}) from "
            f"{counted(images, 'image')} in {self.out} recognises {', '.join(shares)}. "
            f"ddis generate --classifier {self.out}"
        ]
        if not report["trained"]:
            lines.insert(
                0,
                f"{self.out} is there already, of the same images and settings: nothing was trained",
            )
        if "test" not in report["accuracy"]:
            lines.append(
                "no test images given: how well it knows images that it has not seen is not measured (--test)"
            )
        return lines
