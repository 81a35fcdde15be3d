"""How the images of a folder came to be made, over all calls: by which kinds of machines, and how many at once.

Both decide which bytes come out (`engine.methods.kind`). They are known while a call runs, and a call may be killed at
any moment, so they are kept in a file of the folder's own until its `run.json` takes them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.datasets.run_record import read_run
from engine.files import OURS, explained, read_object, write_whole
from engine.image_key import ImageKey

COURSE = f"{OURS}course.json"
KINDS = "kinds"
MICRO_BATCHES = "micro_batches"
Place = dict[str, int]
"""An image: {"class": ..., "index": ...}."""
LEFT_OUT = ("canary", "reproducible", "micro_batch")
"""What a kind says that is not tried in a run of one process, or is noted by itself."""


class Course:
    """What changed from which image on, and the images that were made again later.

    Of a folder that was finished and lacks images again, its record's is kept.

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
        self,
        images: Sequence[ImageKey],
        kind: Mapping[str, Any],
        micro_batches: Mapping[str, int],
        again: Mapping[ImageKey, int] | None = None,
    ) -> None:
        """Say how images of a group are made, before they are written.

        Args:
            images: those that are made now, in their order.
            kind: of this machine, as JSON values.
            micro_batches: images in each phase at once.
            again: where images that follow them are there already, of which this says nothing: the place of each image
                in the run.
        """
        places: list[Place] = [{"class": key.class_index, "index": key.index} for key in images]
        kind = {name: value for name, value in kind.items() if name not in LEFT_OUT}
        noted = {KINDS: {"kind": kind}, MICRO_BATCHES: {"sizes": dict(micro_batches)}}
        new = [
            self._add(name, places[0], how)
            if again is None
            else self._add_images(name, places, how, again)
            for name, how in noted.items()
        ]
        if any(new):
            write_whole(self._path, json.dumps(self._changes).encode())

    def to_json(self) -> dict[str, Any]:
        """{"kinds": [{"from": an image, "kind": ...}], "micro_batches": [{"from": an image, "sizes": ...}]}.

        Images that were made again have "images", all of them, in place of "from". Of two entries the later one holds.
        """
        return self._changes

    def delete(self) -> None:
        """Remove the file, once the record holds what it says."""
        with explained(self._path):
            self._path.unlink(missing_ok=True)

    def _add(self, name: str, first: Place, how: dict[str, Any]) -> bool:
        """Whether something else holds than before, which is then added."""
        before = [change for change in self._changes[name] if "from" in change]
        if before and before[-1] == {"from": before[-1]["from"], **how}:
            return False
        self._changes[name].append({"from": first, **how})
        return True

    def _add_images(
        self, name: str, images: list[Place], how: dict[str, Any], order: Mapping[ImageKey, int]
    ) -> bool:
        """As `_add`, of these images alone."""
        changes = self._changes[name]

        def known(image: Place) -> dict[str, Any]:
            for change in reversed(changes):
                if "images" in change:
                    holds = image in change["images"]
                else:
                    holds = order[_key(change["from"])] <= order[_key(image)]
                if holds:
                    return {key: change[key] for key in how}
            return {}

        others = [image for image in images if known(image) != how]
        if not others:
            return False
        if changes and "images" in changes[-1] and {**changes[-1], **how} == changes[-1]:
            changes[-1]["images"] += others
        else:
            changes.append({"images": others, **how})
        return True


def _key(place: Place) -> ImageKey:
    return ImageKey(place["class"], place["index"])
