"""`ddis report`: a page about data sets, comparisons and measurements."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.apps.cli.command import Call, Command, local, needed
from engine.settings.fields import setting
from engine.settings.report import SHOWN


@dataclass(frozen=True, kw_only=True)
class Report(Command):
    """Write one HTML page about data sets, comparisons and measurements, for a browser; it needs nothing else."""

    module = "engine.report"

    folder: tuple[str, ...] = needed(
        "folders of `ddis generate`, `distill`, `prune` or `quantise`, and files of `evaluate --out` and `tune --out`",
        positional=True,
    )
    images: int = setting(SHOWN, "images of a data set that the page holds at most", "N")
    out: Path | None = local(
        "the page; for one folder report.html in it, for one file the same name with .html", "FILE"
    )

    def run(self, call: Call) -> dict[str, Any]:
        from engine.report import write_report

        file = write_report(self.folder, self.out, self.images)
        call.screen.say(f"report: {file}")
        return {"report": str(file)}
