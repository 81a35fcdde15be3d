"""Complete a data set in parts: check every part, and write the manifest and the contact sheet of all of them.

One part is in memory at a time. Calling it again changes nothing.
"""

import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
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
from engine.datasets.parts import (
    PART_SCHEMA,
    PARTS,
    Tar,
    check_tar,
    read_division,
    read_rows,
    stem,
)
from engine.datasets.run_record import RUN, parsed_run, run_bytes
from engine.datasets.store import Store, open_store, read
from engine.errors import OutputError, brief
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
    """Write manifest.parquet, contact_sheet.png and the end of run.json of a data set in parts.

    place: folder or URL. check: whether to read each tar and compare its checksum; its size is always compared.

    Raises OutputError where parts are missing or damaged. The files of damaged parts are deleted, so that the run,
    called again, makes these parts and no others.
    """
    store = open_store(place)
    division, _ = read_division(store)
    record = parsed_run(read(store, RUN), f"{store}/{RUN}")
    labels = {int(number): label for number, label in record.labels.items()}
    summary = _Summary(set(shown_classes(sorted(labels))))
    missing: list[int] = []
    damaged: dict[int, str] = {}
    with (
        events.task(TASK, division.parts) as task,
        store.writer(MANIFEST) as file,
        pq.ParquetWriter(file, MANIFEST_SCHEMA, compression="zstd") as writer,
    ):
        held: list[pa.Table] = []
        for part in range(division.parts):
            try:
                table = _checked(store, part, check, summary)
            except FileNotFoundError:
                missing.append(part)
            except OutputError as error:
                damaged[part] = str(error)
                store.remove(f"{stem(part)}.parquet")
            else:
                held.append(table.select(MANIFEST_SCHEMA.names))
                summary.look()
            if held and (sum(map(len, held)) >= ROWS_PER_GROUP or part == division.parts - 1):
                writer.write_table(pa.concat_tables(held).combine_chunks())
                held = []
            task.progress()
        _refuse(store, division.parts, missing, damaged)  # and the manifest is not written
    images = summary.kinds.total()
    with store.writer(SHEET) as file:
        file.write(png_bytes(sheet_of_classes(labels, summary.shown, images)))
    measured = {
        "images": images,
        "skipped_guidance_steps": summary.skipped,
        "kinds": dict(sorted(summary.kinds.items())),
    }
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

    classes: those that a contact sheet shows. unseen: PNGs of its images that are not decoded yet; shown: the others.
    """

    classes: set[int]
    tars: set[str] = field(default_factory=set)
    kinds: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    unseen: dict[ImageKey, bytes] = field(default_factory=dict)
    shown: dict[ImageKey, Image.Image] = field(default_factory=dict)

    def add(self, store: Store, tar: Tar, table: pa.Table) -> None:
        self.tars.add(tar.name)
        self.kinds.update(table.column("kind").to_pylist())
        self.skipped += sum(table.column("skipped").to_pylist())
        if min(table.column("index").to_pylist()) >= SHEET_IMAGES:
            return
        for row in table.select(["class", "index", "path", "offset", "size"]).to_pylist():
            if row["class"] in self.classes and row["index"] < SHEET_IMAGES:
                key = ImageKey(row["class"], row["index"])
                self.unseen[key] = read(store, row["path"], row["offset"], row["size"])

    def look(self) -> None:
        """Decode what was read for the sheet, and keep it no larger than it is shown."""
        for key, content in self.unseen.items():
            self.shown[key] = _picture(key, content)
        self.unseen.clear()


def _checked(store: Store, part: int, whole: bool, summary: _Summary) -> pa.Table:
    """The rows of a part, added to the summary.

    Raises OutputError for a damaged one, whose tar is deleted: made again, it has the same name, which is never written
    twice.
    """
    tar, table = read_rows(store, part)
    if wrong := check_tar(store, tar, whole):
        store.remove(tar.name)
        raise OutputError(wrong)
    summary.add(store, tar, table)
    return table


def _refuse(store: Store, parts: int, missing: list[int], damaged: Mapping[int, str]) -> None:
    """Raise OutputError where parts are missing or were damaged."""
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


def _picture(key: ImageKey, content: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return reduced(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise OutputError(
            f"image {key.index} of class {key.class_index} is damaged ({brief(error)}), expected a PNG: compare the "
            "checksums (`ddis finish` without --trust-sizes), which finds the parts to make again."
        ) from error
