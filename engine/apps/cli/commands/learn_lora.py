"""`ddis learn-lora`: guidance distilled into an adapter of the prior."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.apps.cli.command import (
    ALIGNMENT,
    MODELS,
    RESUMES,
    WITH_PRIOR,
    Call,
    Command,
    needed,
)
from engine.request import Execution, Request
from engine.settings.lora import LoraLearning


@dataclass(frozen=True, kw_only=True)
class LearnLora(Command):
    """Distil guidance into an adapter of the prior, which then samples without the classifier."""

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
        *("lora.rank", "lora.epochs", "alignment.scale", "steps", "cfg"),
        *("architecture", "labels", "memory", "device"),
    )
    interrupted = RESUMES

    request: Request = field(default_factory=Request)
    out: Path = needed("the adapter (.safetensors); resumed if it was interrupted", "FILE")
    lora: LoraLearning = field(default_factory=LoraLearning)
    execution: Execution = field(default_factory=Execution)

    def run(self, call: Call) -> dict[str, Any]:
        from engine.runners.learn_lora import learn_lora

        learned = learn_lora(
            replace(self.request, student=None, runtime="torch"),
            learning=self.lora,
            out=self.out,
            device=self.execution.device,
            memory=self.execution.memory,
            attention=self.execution.attention,
            events=call.events,
        )
        call.screen.say(
            f"{self.out} learned from {learned.images} images in {learned.updates} updates; its error, squared and in "
            f"units of noise / signal, is {learned.error_after:.3f}, that of the prior alone "
            f"{learned.error_before:.3f}. To draw with it, add to the options of generate: --method plain --cfg 1 "
            f"--prior.lora {self.out}"
        )
        return {**vars(learned), "file": str(self.out)}
