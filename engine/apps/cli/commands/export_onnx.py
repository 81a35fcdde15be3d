"""`ddis export-onnx`: the networks and the guidance gradient as ONNX graphs."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.apps.cli import requests
from engine.apps.cli.command import (
    ALIGNMENT,
    MODELS,
    WITH_PRIOR,
    Call,
    Command,
    Preset,
    needed,
    preset,
)
from engine.request import Execution, Request


@dataclass(frozen=True, kw_only=True)
class ExportOnnx(Command):
    """Write the networks and the guidance gradient as ONNX."""

    module = "engine.onnx.export"
    options = (*MODELS, "request.method.name", *ALIGNMENT)
    needs = ("request.classifier.source",)
    methods = WITH_PRIOR
    common = (
        *("classifier", "prior", "out", "method", "preset", "dtype", "device", "architecture"),
        "labels",
    )

    request: Request = field(default_factory=Request)
    out: Path = needed("folder; serves `ddis generate` as its --onnx-cache")
    preset: Preset = preset()
    execution: Execution = field(default_factory=Execution)

    def run(self, call: Call) -> dict[str, Any]:
        from engine.guidance.decoder import decoder_of
        from engine.onnx.export import export_all

        served = replace(self.request, runtime="onnx")  # `auto` is a dtype that this runtime has
        classifier, prior = requests.load_models(served, self.execution)
        alignment = requests.drawing(self.request).alignment
        decoder = decoder_of(alignment, prior, classifier.preprocess) if alignment else None
        files = export_all(prior, classifier, alignment, decoder, self.out, call.events)
        for file in files:
            call.screen.say(str(file))
        return {"files": [str(file) for file in files]}
