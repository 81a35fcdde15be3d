"""Complete a data set in parts: check every part, and write the manifest and the contact sheet of all of them.

One part is in memory at a time. Calling it again changes nothing.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from engine.datasets.contact_sheet import (
    SHEET,
    SHEET_IMAGES,
    reduced,
    sheet_of_classes,
    shown_classes,
)
from engine.datasets.images import png_bytes
from engine.datasets.manifest import MANIFEST
from engine.datasets.names import LABELS, labels_json
from engine.datasets.part_reading import (
    PieceOfFile,
    check_tar,
    picture_of,
    read_record,
    read_rows,
)
from engine.datasets.parts import (
    DIVISION,
    PART_SCHEMA,
    PARTS,
    Division,
    Tar,
    done_parts,
    read_division,
    stem,
)
from engine.datasets.row_digest import KEY, RowDigest
from engine.datasets.run_record import RUN, RunRecord, run_bytes
from engine.datasets.store import Store, open_store
from engine.errors import DamagedError, OutputError, brief
from engine.events import SILENT, Events
from engine.image_key import ImageKey

MANIFEST_SCHEMA = pa.schema([field for field in PART_SCHEMA if field.name != "logits"])
"""Logits stay in the row files: those of a million images and a thousand classes are 4 GB."""
ROWS_PER_GROUP = 50_000
"""Parquet keeps a description of each group of rows until the file is closed: one a part would be hundreds of MB."""
TASK = "parts"


@dataclass(frozen=True)
class Finished:
    """What a finished data set holds. kinds: images by the kind of worker that made them. orphans: files removed."""

    images: int
    parts: int
    kinds: dict[str, int]
    orphans: int


def finish(place: Path | str, check: bool = True, events: Events = SILENT) -> Finished:
    """Write manifest.parquet, contact_sheet.png, labels.json and the end of run.json of a data set in parts.

    place: folder or URL. check: whether to read each tar and compare its checksum; its size is always compared.

    Raises OutputError where parts are missing or damaged, cannot be read, or are not those of the request. The files of
    parts that were read and are damaged are deleted, so that the run, called again, makes these parts and no others.
    Where a file cannot be read, nothing is deleted.
    """
    store = open_store(place)
    division, _, run = read_division(store)
    record = read_record(store, run)
    labels = {int(number): label for number, label in record.labels.items()}
    summary = _Summary(set(shown_classes(sorted(labels))))
    missing: list[int] = []
    damaged: dict[int, DamagedPart] = {}
    _refuse_more_parts(store, division)
    with (
        events.task(TASK, division.parts) as task,
        store.writer(MANIFEST) as file,
        pq.ParquetWriter(
            file, MANIFEST_SCHEMA, compression="zstd", write_page_checksum=True
        ) as writer,
    ):
        digest = RowDigest()
        held: list[pa.Table] = []
        for part in range(division.parts):
            try:
                table = _checked(store, part, check, summary)
            except FileNotFoundError:
                missing.append(part)
            except DamagedPart as error:
                damaged[part] = error
            else:
                held.append(table.select(MANIFEST_SCHEMA.names))
                digest.add(held[-1])
            if held and (sum(map(len, held)) >= ROWS_PER_GROUP or part == division.parts - 1):
                writer.write_table(pa.concat_tables(held).combine_chunks())
                held = []
            task.progress()
        writer.add_key_value_metadata({KEY: digest.value()})
        _refuse(store, division.parts, missing, damaged)  # and the manifest is not written
        _check_request(store, record, summary)
    images = summary.kinds.total()
    with store.writer(SHEET) as file:
        file.write(png_bytes(sheet_of_classes(labels, summary.shown, images)))
    measured = {
        "images": images,
        "skipped_guidance_steps": summary.skipped,
        "kinds": dict(sorted(summary.kinds.items())),
    }
    with store.writer(LABELS) as file:
        file.write(labels_json(labels))
    with store.writer(RUN) as file:
        file.write(run_bytes(record.made, record.labels, measured, record.versions))
    orphans = [n for n in store.names(PARTS) if n.endswith(".tar") and n not in summary.tars]
    for name in orphans:
        store.remove(name)
    store.tidy()
    return Finished(images, division.parts, dict(summary.kinds), len(orphans))


@dataclass
class _Summary:
    """What is gathered of the parts, besides their rows.

    classes: those that a contact sheet shows. keys: class and index of each image in one number. shown: the sheet's
    images, no larger than it shows them.
    """

    classes: set[int]
    tars: set[str] = field(default_factory=set)
    keys: list[NDArray[np.int64]] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    shown: dict[ImageKey, Image.Image] = field(default_factory=dict)

    def add(self, store: Store, tar: Tar, table: pa.Table) -> None:
        self.tars.add(tar.name)
        numbers = table.column("class").to_numpy().astype(np.int64)
        self.keys.append(numbers << 32 | table.column("index").to_numpy())
        self.kinds.update(table.column("kind").to_pylist())
        self.skipped += sum(table.column("skipped").to_pylist())
        if min(table.column("index").to_pylist()) >= SHEET_IMAGES:
            return
        for row in table.select(["class", "index", "path", "offset", "size"]).to_pylist():
            if row["class"] in self.classes and row["index"] < SHEET_IMAGES:
                key = ImageKey(row["class"], row["index"])
                file = PieceOfFile(store, row["path"], row["offset"], row["size"])
                self.shown[key] = reduced(picture_of(file))


class DamagedPart(DamagedError):
    """A part that was read and is not as it was written. tar: its tar, where that is known to be wrong."""

    def __init__(self, wrong: str, tar: str | None) -> None:
        super().__init__(wrong)
        self.tar = tar


def _checked(store: Store, part: int, whole: bool, summary: _Summary) -> pa.Table:
    """The rows of a part, added to the summary. Raises DamagedPart."""
    try:
        tar, table = read_rows(store, part)
    except DamagedError as error:
        wrong = " ".join(("has damaged rows:", brief(error.__cause__ or error)))
        raise DamagedPart(wrong, None) from error
    if wrong := check_tar(store, tar, whole):
        raise DamagedPart(wrong, tar.name)
    summary.add(store, tar, table)
    return table


def _refuse(
    store: Store, parts: int, missing: list[int], damaged: Mapping[int, DamagedPart]
) -> None:
    """Raise OutputError where parts are missing or damaged; the files of damaged ones are deleted before.

    Also a damaged tar: made again, it has the same name, which is never written twice. Where the rows are damaged, no
    tar of the part is known to be sound.
    """
    for part, error in damaged.items():
        folder = stem(part).rpartition("/")[0]
        for name in store.names(folder) if error.tar is None else [error.tar]:
            if name.startswith(f"{stem(part)}-") or name == error.tar:
                store.remove(name)
        store.remove(f"{stem(part)}.parquet")
    if damaged:
        part, wrong = next(iter(damaged.items()))
        raise OutputError(
            f"{len(damaged)} of the {parts} parts of {store} are damaged (part {part} {wrong}), expected them as they "
            "were written: they no longer count as done. Run `ddis generate` again with the same settings, which makes "
            "them again, then `ddis finish`."
        )
    if missing:
        raise OutputError(
            f"{store} lacks {len(missing)} of its {parts} parts, part {missing[0]} first, expected all of them: run "
            "`ddis generate` again with the same settings for all shares, then `ddis finish`."
        )


def _refuse_more_parts(store: Store, division: Division) -> None:
    """Raise OutputError where there are parts that the division does not know, and whose images would be deleted."""
    more = sorted(part for part in done_parts(store) if part >= division.parts)
    if more:
        raise OutputError(
            f"{store} has {len(more)} parts beyond the {division.parts} of its {DIVISION}, part {more[0]} first, "
            f"expected none: {DIVISION} is not as it was written, or the parts are of another run. Nothing was "
            f"deleted; put a copy of {DIVISION} back, or move these parts away."
        )


def _check_request(store: Store, record: RunRecord, summary: _Summary) -> None:
    """Raise OutputError where the parts hold other images than the run's request asks for."""
    keys = np.concatenate([np.empty(0, np.int64), *summary.keys])
    doubled = len(keys) - len(np.unique(keys))
    of_each = record.made.get("request", {}).get("images_per_class")
    expected = len(keys) if of_each is None else of_each * len(record.labels)
    if doubled or len(keys) != expected:
        raise OutputError(
            f"the parts of {store} hold {len(keys)} images, {doubled} of them twice, expected {expected}, each once, "
            f"as {RUN} asks for: {DIVISION} or {RUN} is not as it was written. Nothing was deleted; put copies of them "
            "back."
        )
