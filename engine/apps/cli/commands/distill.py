"""`ddis distill`: what a folder is worth to a smaller network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.apps.cli.command import Call, local
from engine.apps.cli.comparison import Comparing
from engine.settings.downstream import Distillation, Streaming
from engine.settings.fields import setting
from engine.settings.plain import to_plain

PROTOCOLS: dict[str, Callable[[], Distillation]] = {
    "short": Distillation.short,
    "long": Distillation.long,
}


@dataclass(frozen=True, kw_only=True)
class Distill(Comparing):
    """Teach a smaller network on a data set folder, and compare with original images, plain ones and noise."""

    module = "engine.downstream.distill"
    common = (
        *("classifier", "out", "student", "protocol", "epochs", "updates", "original", "rows"),
        *("test", "domain", "plain", "stream", "images-per-class", "tokens", "prior", "seeds"),
        "device",
    )

    student: str | None = setting(
        None,
        "resnet8, 14, 20, 32, 44, 56 or vgg8 for small images, resnet18, 34, 50 for large ones; /2, /4 or /8 behind it "
        "divides its widths; by default resnet14, or for large images the widest resnet18 smaller than the classifier",
        "NAME",
    )
    protocol: Literal["short", "long"] = local(
        "short: 30 epochs; long: 200, for students that will be used", default="short"
    )
    distillation: Distillation = field(default_factory=Distillation)
    streaming: Streaming = field(default_factory=Streaming)

    @classmethod
    def preset_values(cls, given: Mapping[str, Any], method: str) -> dict[str, Any]:
        values = super().preset_values(given, method)
        protocol = PROTOCOLS.get(given.get("protocol", ""))
        return values if protocol is None else values | {"distillation": to_plain(protocol())}

    def run(self, call: Call) -> dict[str, Any]:
        from engine.downstream.distill import distill
        from engine.downstream.inputs import check_streaming, check_updates
        from engine.downstream.students import student_name

        check_updates(self.comparison, self.distillation)
        check_streaming(self.streaming, self.distillation)
        return self.compare(
            call,
            distill,
            "Students",
            lambda classifier: student_name(self.student, classifier),
            student=self.student,
            distillation=self.distillation,
            streaming=self.streaming,
        )
