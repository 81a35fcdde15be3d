"""`ddis learn-lora`: an adapter of the prior that has learned guidance, or the classes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from engine.apps.cli.command import (
    ALIGNMENT,
    MODELS,
    RESUMES,
    WITH_PRIOR,
    Call,
    Command,
    local,
    needed,
)
from engine.apps.cli.requests import models_on_record
from engine.datasets.run_record import RUN
from engine.errors import ConfigError, counted
from engine.request import Execution, Request
from engine.settings.lora import LoraLearning
from engine.settings.plain import to_plain


@dataclass(frozen=True, kw_only=True)
class LearnLora(Command):
    """Teach an adapter of the prior guidance, so that it samples without the classifier, or the classes."""

    module = "engine.runners.learn_lora"
    options = (
        *MODELS,
        "request.method.name",
        *ALIGNMENT,
        "request.method.sampling.*",
        "request.method.tokens",
        "request.classes",
        "request.images_per_class",
        "request.seed",
        "execution.memory",
        "execution.attention",
        "lora.*",
    )
    needs = ("request.classifier.source",)
    methods = WITH_PRIOR
    common = (
        *("classifier", "out", "classes", "images-per-class", "seed", "prior", "method", "tokens"),
        "preset",
        *("lora.rank", "lora.epochs", "alignment.scale", "steps", "cfg"),
        *("architecture", "labels", "memory", "device"),
    )
    interrupted = RESUMES

    request: Request = field(default_factory=Request)
    folder: Path | None = local(
        "a data set of `ddis generate`: learn what it was made with, models and all, but for what flags say; its "
        "trajectories are drawn again",
        "FOLDER",
        positional=True,
    )
    out: Path = needed("the adapter (.safetensors); resumed if it was interrupted", "FILE")
    preset: Literal["default", "class"] = local(
        "default: guidance and CFG, distilled; class: one adapter in place of class tokens, which is sampled with as "
        "the prior alone is",
        default="default",
    )
    lora: LoraLearning = field(default_factory=LoraLearning)
    execution: Execution = field(default_factory=Execution)

    @classmethod
    def settings_file(cls, given: Mapping[str, Any]) -> Path | None:
        named = super().settings_file(given)
        if "folder" not in given:
            return named
        if named is not None:
            raise ConfigError(
                f"folder is {given['folder']} and config is {named}, expected one of them: each says what is "
                "learned. Leave one out."
            )
        record = Path(given["folder"]) / RUN
        if not record.is_file():
            raise ConfigError(
                f"{given['folder']} has no {RUN}, expected a data set of `ddis generate`, whose settings are learned: "
                "check the path, or leave it out and give --classifier."
            )
        return record

    @classmethod
    def preset_values(cls, given: Mapping[str, Any], method: str) -> dict[str, Any]:
        if given.get("preset") == "class":
            return {"lora": to_plain(LoraLearning.of_classes())}
        return super().preset_values(given, method)

    def run(self, call: Call) -> dict[str, Any]:
        from engine.runners.learn_lora import learn_lora

        learned = learn_lora(
            replace(self.request, student=None, runtime="torch"),
            learning=self.lora,
            out=self.out,
            device=self.execution.device,
            memory=self.execution.memory,
            attention=self.execution.attention,
            expected=models_on_record(call),
            events=call.events,
        )
        if self.lora.objective == "class":
            error, options = "cross-entropy of its images", ""
        else:
            error, options = (
                "error, squared and in units of noise / signal,",
                "--method plain --cfg 1 ",
            )
        call.screen.say(
            f"{self.out} learned from {counted(learned.images, 'image')} in {counted(learned.updates, 'update')}; the "
            f"{error} is {learned.error_after:.3f}, that of the prior alone {learned.error_before:.3f}. To draw "
            f"with it, add to the options of generate: {options}--prior.lora {self.out}"
        )
        return {**vars(learned), "file": str(self.out)}
