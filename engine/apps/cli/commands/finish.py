"""`ddis finish`: the manifest of a data set that several processes made."""

from dataclasses import dataclass
from typing import Any

from engine.apps.cli.command import Call, Command, needed
from engine.settings.fields import setting


@dataclass(frozen=True, kw_only=True)
class Finish(Command):
    """Check a data set that shares or a cluster made, and write its manifest and contact sheet."""

    module = "engine.datasets.finish"
    interrupted = "nothing is lost: run the same command again."

    folder: str = needed("folder or URL that all shares wrote to", positional=True)
    trust_sizes: bool = setting(False, "compare the sizes of the parts alone, not their checksums")

    def run(self, call: Call) -> dict[str, Any]:
        from engine.datasets.finish import finish

        found = finish(self.folder, not self.trust_sizes, call.events)
        made_by = ""
        if len(found.kinds) > 1:
            shares = ", ".join(f"{number:,} by {kind}" for kind, number in found.kinds.items())
            made_by = f"; machines of {len(found.kinds)} kinds made them: {shares}"
        call.screen.say(
            f"{found.images:,} images in {found.parts:,} part{'s' * (found.parts != 1)} of {self.folder}{made_by}"
        )
        return {"folder": self.folder, **vars(found)}
