"""`ddis profile`: a guided step's time."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.apps.cli import requests
from engine.apps.cli.command import ALIGNMENT, MODELS, Call, Command, Preset, local, preset
from engine.errors import counted
from engine.request import Execution, Request
from engine.settings.fields import setting


@dataclass(frozen=True, kw_only=True)
class Profile(Command):
    """Measure where the time of a guided step goes."""

    module = "engine.memory.profile"
    options = (*MODELS, *ALIGNMENT, "request.method.sampling.cfg")
    needs = ("request.classifier.source",)
    methods = ("ddis",)
    common = (
        *("classifier", "prior", "images", "trace", "preset", "cfg", "dtype", "device"),
        *("architecture", "labels"),
    )

    request: Request = field(default_factory=Request)
    images: int = setting(4, "images in the step")
    trace: Path | None = local("also write a Chrome trace of the step here (.json)", "FILE")
    preset: Preset = preset()
    execution: Execution = field(default_factory=Execution)

    def run(self, call: Call) -> dict[str, Any]:
        from engine.memory.profile import REPEATS, profile_step

        classifier, prior = requests.load_models(self.request, self.execution)
        alignment = requests.drawing(self.request).alignment
        assert alignment is not None
        found = profile_step(
            prior,
            classifier,
            self.images,
            alignment,
            requests.drawing(self.request).sampling,
            self.trace,
        )
        whole = found.milliseconds["step"]
        call.screen.table(
            f"One guided step of {counted(found.images, 'image')} on {found.device}",
            ["part", "ms", "of step"],
            [[part, f"{ms:.1f}", f"{ms / whole:.0%}"] for part, ms in found.milliseconds.items()],
            result=True,
        )
        call.screen.say(
            "one step under torch's profiler, which slows it. Own kernels are part of classifier and backward; host "
            "gaps are time in which no operator ran",
            result=True,
        )
        call.screen.say(
            f"without it, median of {REPEATS}: a guided step takes {found.guided_ms:.1f} ms, a plain one "
            f"{found.plain_ms:.1f}: "
            f"{found.time_ratio:.2f} times the time, {found.flops_ratio:.2f} times the FLOPs",
            result=True,
        )
        if found.trace:
            call.screen.say(
                f"trace: {found.trace} (open it in chrome://tracing or ui.perfetto.dev)"
            )
        return found.to_json()
