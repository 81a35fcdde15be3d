"""`ddis embedded check`: what the models that ship reach."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.apps.cli.command import Call, Command, local
from engine.settings.fields import setting


@dataclass(frozen=True, kw_only=True)
class EmbeddedCheck(Command):
    """Measure the embedded models against their claims."""

    module = "engine.apps.check_embedded"

    data: Path | None = local(
        "folder with pacs64-test.parquet, for accuracies on real images", "FOLDER"
    )
    images_per_prompt: int = setting(8, "samples of each prompt")
    seed: int = setting(0, "seed of the samples")

    def run(self, call: Call) -> dict[str, Any]:
        from engine.apps.check_embedded import GOALS, check_embedded

        report = check_embedded(self.data, self.images_per_prompt, self.seed, call.events)
        lines = [
            [name, "not measured" if value is None else f"{value:.3g}", f">= {GOALS[name]:g}"]
            for name, value in report["measures"].items()
        ]
        call.screen.table("Embedded models", ["measure", "found", "goal"], lines, result=True)
        return report
