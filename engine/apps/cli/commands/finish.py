"""`ddis finish`: the manifest and the report of a data set that several processes made."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.apps.cli.closing import report
from engine.apps.cli.command import Call, Command, needed
from engine.errors import counted
from engine.settings.fields import setting


@dataclass(frozen=True, kw_only=True)
class Finish(Command):
    """Check a data set that shares or a cluster made, and write its manifest, contact sheet and report."""

    module = "engine.datasets.finish"
    interrupted = "nothing is lost: run the same command again."

    folder: str = needed("folder or URL that all shares wrote to", positional=True)
    trust_sizes: bool = setting(False, "compare the sizes of the parts alone, not their checksums")

    def run(self, call: Call) -> dict[str, Any]:
        from engine.datasets.finish import finish
        from engine.datasets.store import is_url

        found = finish(self.folder, not self.trust_sizes, call.events)
        made_by = ""
        if len(found.kinds) > 1:
            shares = ", ".join(f"{number:,} by {kind}" for kind, number in found.kinds.items())
            made_by = f"; machines of {len(found.kinds)} kinds made them: {shares}"
        call.screen.say(
            f"{counted(found.images, 'image')} in {counted(found.parts, 'part')} of {self.folder}{made_by}"
        )
        if not is_url(self.folder):
            report(call, Path(self.folder), found.images)
        return {"folder": self.folder, **vars(found)}
