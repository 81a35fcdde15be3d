"""`ddis tune`: the prompt and the length of a guidance step, found without data."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from shlex import join
from typing import TYPE_CHECKING, Any

from engine.apps.cli import requests
from engine.apps.cli.command import MODELS, Call, Command, Preset, local, preset
from engine.apps.cli.commands.generate import Generate
from engine.apps.cli.manual import value_at
from engine.apps.cli.options import Option, options_of
from engine.errors import ConfigError
from engine.request import Execution, Request
from engine.settings.fields import setting
from engine.settings.plain import to_plain

if TYPE_CHECKING:
    from engine.runners.trial import Trial

PROMPT = "request.method.sampling.prompt"
COLUMNS = ("log distance", "cross-entropy", "score", "seen", "in all views")


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
        call.screen.say(
            "seen: share of images that the classifier recognises; in all views: also flipped, shifted and zoomed",
            result=True,
        )
        if found.prompts:
            call.screen.say(
                "score: of a prompt its log distance, of a scale the log distance + cross-entropy",
                result=True,
            )
        if alignment.step == "relative" and best != alignment.scale:
            call.screen.say(
                f"scales near the default, {alignment.scale:g}, differ little: --alignment.scale may be left out",
                result=True,
            )
        command = self._command(call, prompt, best, alignment.scale, method.sampling.prompt)
        call.screen.say(command, result=True)
        report = found.to_json() | {"preset": self.preset, "command": command}
        if self.out is not None:
            write_whole(self.out, json.dumps(report, indent=1).encode() + b"\n")
            call.screen.say(f"to look at it in a browser: ddis report {self.out}")
        return report

    def _command(
        self, call: Call, prompt: str, scale: float, asked_scale: float, asked_prompt: str
    ) -> str:
        """The command that draws images with the prompt and scale found, and with the options of this call.

        asked_scale, asked_prompt: what it would draw with if it did not name them.
        """
        settings = {"request": to_plain(self.request), "execution": to_plain(self.execution)}
        values = {**settings, "preset": self.preset, "config": str(self.config)}
        words = ["ddis", "generate"]
        for option in options_of(Generate):
            known = option.path in call.given and (not option.local or option.path in values)
            if known and not (option.path == PROMPT and prompt != asked_prompt):
                words += _typed(option, value_at(values, option.path))
        if prompt != asked_prompt:
            words += ["--prompt", prompt]
        if scale != asked_scale:
            words += ["--alignment.scale", f"{scale:g}"]
        return f"{join(words)} --out FOLDER"


def _typed(option: Option, value: Any) -> list[str]:
    """An option and its value as words of a command line."""
    if option.kind is bool:
        section, dot, name = option.flag.rpartition(".")
        return [f"--{section}{dot}{'' if value else 'no-'}{name}"]
    values = value if isinstance(value, list | tuple) else [value]
    return [f"--{option.flag}", *map(str, values)]


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
