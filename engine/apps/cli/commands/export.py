"""`ddis export`: a data set as WebDataset shards."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.apps.cli.command import RESUMES, Call, Command, needed
from engine.errors import counted
from engine.settings.fields import setting


@dataclass(frozen=True, kw_only=True)
class Export(Command):
    """Write a data set folder as WebDataset shards."""

    module = "engine.datasets.webdataset"
    interrupted = RESUMES

    folder: Path = needed("a folder of `ddis generate`", positional=True)
    out: Path = needed("folder of the shards")
    images_per_shard: int = setting(10_000, "images of each shard")

    def run(self, call: Call) -> dict[str, Any]:
        from engine.datasets.webdataset import export_webdataset

        shards = export_webdataset(self.folder, self.out, self.images_per_shard, call.events)
        call.screen.say(f"{counted(len(shards), 'shard')} in {self.out}")
        return {"shards": [str(path) for path in shards]}
