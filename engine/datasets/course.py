"""How the images of a folder came to be made, over all calls: by which kinds of machines, and how many at once.

Both decide which bytes come out (`engine.methods.kind`). They are known while a call runs, and a call may be killed at
any moment, so they are kept in a file of the folder's own until its `run.json` takes them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.datasets.run_record import read_run
from engine.files import OURS, explained, read_object, write_whole
from engine.image_key import ImageKey

COURSE = f"{OURS}course.json"
KINDS = "kinds"
MICRO_BATCHES = "micro_batches"
LEFT_OUT = ("canary", "reproducible", "micro_batch")
"""What a kind says that is not tried in a run of one process, or is noted by itself."""


class Course:
    """What changed from which image on. Of a folder that was finished and lacks images again, its record's is kept.

    Args:
        folder: of the data set; its run.json is there.
        begun: whether it holds images. Without one, what an earlier call left is of no image.
    """

    def __init__(self, folder: Path | str, begun: bool) -> None:
        self._path = Path(folder) / COURSE
        known: Mapping[str, Any] = {}
        if begun and self._path.exists():
            known = read_object(self._path, "delete it, which loses how the first images were made")
        elif begun:
            known = read_run(Path(folder)).measured
        self._changes = {name: [*known.get(name, [])] for name in (KINDS, MICRO_BATCHES)}

    def note(
        self, first: ImageKey, kind: Mapping[str, Any], micro_batches: Mapping[str, int]
    ) -> None:
        """Say how the images of a group were made, before they are written.

        first: of the group. kind: of this machine, as JSON values. micro_batches: images in each phase at once.
        """
        place = {"class": first.class_index, "index": first.index}
        kind = {name: value for name, value in kind.items() if name not in LEFT_OUT}
        new = [
            self._add(KINDS, {"from": place, "kind": kind}),
            self._add(MICRO_BATCHES, {"from": place, "sizes": dict(micro_batches)}),
        ]
        if any(new):
            write_whole(self._path, json.dumps(self._changes).encode())

    def to_json(self) -> dict[str, Any]:
        """{"kinds": [{"from": an image, "kind": ...}], "micro_batches": [{"from": an image, "sizes": ...}]}."""
        return self._changes

    def delete(self) -> None:
        """Remove the file, once the record holds what it says."""
        with explained(self._path):
            self._path.unlink(missing_ok=True)

    def _add(self, name: str, change: dict[str, Any]) -> bool:
        """Whether something else holds than before, which is then added."""
        changes = self._changes[name]
        before = {**changes[-1], "from": change["from"]} if changes else None
        if before == change:
            return False
        changes.append(change)
        return True
