"""Export to WebDataset shards: tar files that a trainer streams. Written with the standard library alone.

shard-00000.tar holds, per image, <class>_<index>.png, .cls (the class's number) and .json (its manifest row).
"""

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from engine.datasets.dataset import ImageFile, read_dataset
from engine.datasets.manifest import Row
from engine.datasets.part_reading import content_of
from engine.datasets.parts import add_entry
from engine.datasets.run_record import RUN
from engine.errors import ConfigError, OutputError
from engine.events import SILENT, Events
from engine.files import OURS, explained, make_folder, remove_leftovers, whole_file, write_whole
from engine.locks import locked_folder
from engine.urls import check_local

BEGUN = f"{OURS}export.json"
"""There until the last shard is."""


def export_webdataset(
    folder: Path | str,
    target: Path | str,
    images_per_shard: int = 1000,
    events: Events = SILENT,
) -> list[Path]:
    """Write the finished data set in `folder` as shards into `target`, a new or empty folder. Returns their paths.

    Each shard mixes the classes: image 0 of every class comes first, then image 1. Equal data sets give equal bytes.
    An export that was cut goes on with the shards that are missing.

    Raises ConfigError for a shard without images and for a URL, OutputError where one of the folders is not
    what it should be.
    """
    check_local(folder)
    folder, target = Path(folder), Path(target)
    if images_per_shard < 1:
        raise ConfigError(
            f"images_per_shard is {images_per_shard}, expected at least 1: raise it; 1000 images of 512 px make "
            "about 400 MB."
        )
    begun = _begun(folder, images_per_shard)
    _check_empty(target, begun)
    rows = read_dataset(folder, mixed=True)
    shards: list[Path] = []
    shard_rows = list(islice(rows, images_per_shard))  # nothing is written where it cannot be read
    make_folder(target)
    with locked_folder(target), events.task("images packed", None) as task:
        _check_empty(target, begun)  # of what another process wrote meanwhile, too
        remove_leftovers(target)
        write_whole(target / BEGUN, begun)
        while shard_rows:
            shards.append(target / f"shard-{len(shards):05d}.tar")
            if not shards[-1].exists():
                with whole_file(shards[-1]) as file:
                    _pack(shard_rows, file)
            task.progress(len(shard_rows), shards[-1].name)
            shard_rows = list(islice(rows, images_per_shard))
        (target / BEGUN).unlink()
    return shards


def _begun(folder: Path, images_per_shard: int) -> bytes:
    """What tells an export from others while it is not at its end: the record of the data set, and the setting."""
    record = folder / RUN
    known = sha256(record.read_bytes()).hexdigest() if record.exists() else ""
    return json.dumps({"run": known, "images_per_shard": images_per_shard}).encode()


def _check_empty(target: Path, begun: bytes) -> None:
    """Raise OutputError where a folder holds anything but the same export, cut, or what killed writers left."""
    with explained(target):
        if (target / BEGUN).exists() and (target / BEGUN).read_bytes() == begun:
            return
        if target.exists() and not all(path.name.startswith(OURS) for path in target.iterdir()):
            raise OutputError(
                f"{target} is not empty, expected a new folder for shards: choose another one."
            )


def _pack(rows: Sequence[tuple[ImageFile, Row]], file: BinaryIO) -> None:
    """Write one shard."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as shard:
        for image, row in rows:
            for name, content in _members(image, row):
                add_entry(shard, name, content)


def _members(file: ImageFile, row: Row) -> Iterator[tuple[str, bytes]]:
    name = f"{row.class_index:05d}_{row.index:05d}"
    content = asdict(row) | {"logits": row.logits.tolist()}
    yield f"{name}.png", content_of(file)
    yield f"{name}.cls", str(row.class_index).encode()
    yield f"{name}.json", json.dumps(content, ensure_ascii=False).encode()
