"""`ddis tune`: the prompt and the length of a guidance step, found without data."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from engine.apps.cli import requests
from engine.apps.cli.command import MODELS, Call, Command, Preset, local, preset
from engine.errors import ConfigError
from engine.prompts import PLAIN
from engine.request import Execution, Request
from engine.settings.fields import setting

if TYPE_CHECKING:
    from engine.runners.trial import Trial

COLUMNS = ("distance", "cross-entropy", "score", "recognised", "in every view")


@dataclass(frozen=True, kw_only=True)
class Tune(Command):
    """Find the prompt and the scale of guidance from the classifier alone."""

    module = "engine.runners.tune"
    options = (*MODELS, "request.method.*", "request.classes", "request.seed")
    needs = ("request.classifier.source",)
    methods = ("ddis",)
    common = (
        *(
            "classifier",
            "prompts",
            "scales",
            "images-per-class",
            "classes",
            "seed",
            "prior",
            "tokens",
        ),
        *("out", "preset", "steps", "cfg", "architecture", "labels", "dtype", "device"),
    )

    request: Request = field(default_factory=Request)
    scales: tuple[float, ...] | None = setting(
        None, "scales to try; by default those that suit relative steps", "X"
    )
    prompts: tuple[str, ...] | None = setting(
        None,
        "prompts to try, such as 'a sketch of {a} {class}'; by default five that name styles, or the one of --prompt",
        "PROMPT",
    )
    images_per_class: int = setting(4, "images of each class and trial")
    preset: Preset = preset()
    out: Path | None = local("also write the trials here, as JSON, for `ddis report`", "FILE")
    execution: Execution = field(default_factory=Execution)

    def run(self, call: Call) -> dict[str, Any]:
        from engine.files import check_writable, write_whole
        from engine.runners.tune import SCALES, tune

        if self.out is not None:
            check_writable(self.out)
        method = requests.drawing(self.request)
        alignment = method.alignment
        assert alignment is not None
        if "request.method.alignment.scale" in call.given:
            raise ConfigError(
                f"--alignment.scale {alignment.scale:g} has no effect in tune, expected the scales to try: name them "
                "by --scales, or leave it out."
            )
        if alignment.step == "raw" and not self.scales:
            raise ConfigError(
                "raw steps are in units of a classifier's own gradient and there are no --scales, expected some: no "
                "list suits all classifiers. Name scales over several powers of ten."
            )
        classifier, prior = requests.load_models(self.request, self.execution)
        found = tune(
            classifier,
            prior,
            self.request.classes,
            tokens=method.tokens,
            alignment=alignment,
            sampling=method.sampling,
            scales=self.scales or SCALES,
            prompts=self.prompts,
            images_per_class=self.images_per_class,
            seed=self.request.seed,
            events=call.events,
        )
        best, prompt = found.alignment.scale, found.sampling.prompt
        if found.prompts:
            rows = [_row(trial.prompt, trial) for trial in found.prompts]
            call.screen.table(
                f"{prompt!r} has the least score of the prompts",
                ["prompt", *COLUMNS],
                rows,
                result=True,
            )
        rows = [_row(f"{trial.scale:g}", trial) for trial in found.trials]
        call.screen.table(
            f"Scale {best:g} has the least score", ["scale", *COLUMNS], rows, result=True
        )
        preset = "" if self.preset == "default" else f"--preset {self.preset} "
        asked_for = "" if prompt == PLAIN else f"--prompt {quote(prompt)} "
        call.screen.say(
            f"ddis generate ... {preset}{asked_for}--alignment.scale {best:g}", result=True
        )
        report = found.to_json() | {"preset": self.preset}
        if self.out is not None:
            write_whole(self.out, json.dumps(report, indent=1).encode() + b"\n")
            call.screen.say(f"to look at it in a browser: ddis report {self.out}")
        return report


def _row(name: str, trial: "Trial") -> list[str]:
    """A trial as a line of its table."""
    return [
        name,
        "-" if trial.gap is None else f"{trial.gap:.2f}",
        f"{trial.cross_entropy:.3g}",
        f"{trial.score:.2f}",
        f"{trial.recognised:.0%}",
        f"{trial.agreement:.0%}",
    ]
