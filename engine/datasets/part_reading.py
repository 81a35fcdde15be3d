"""Reading a data set in parts: rows and images of each part, compared with the checksums that it was written with."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from engine.datasets.manifest import SCHEMA, Row, rows_in
from engine.datasets.parts import (
    DIVISION,
    IN_METADATA,
    PART_SCHEMA,
    Tar,
    read_division,
    stem,
)
from engine.datasets.row_digest import KEY, RowDigest
from engine.datasets.run_record import RUN, RunRecord, parsed_run, run_digest
from engine.datasets.store import Store, open_store, read
from engine.errors import DamagedError, OutputError, brief
from engine.files import read_explained

REMAKE = (
    "run `ddis finish`, which removes what is damaged, then `ddis generate` again with the same settings, which makes "
    "it again, then `ddis finish`"
)


@dataclass(frozen=True)
class PieceOfFile:
    """An image within a file of a store. Reads as a `Path` does."""

    store: Store
    name: str
    offset: int
    size: int

    def read_bytes(self) -> bytes:
        return read(self.store, self.name, self.offset, self.size)

    def exists(self) -> bool:
        size = self.store.size(self.name)
        return size is not None and size >= self.offset + self.size

    def __str__(self) -> str:
        return f"{self.store}/{self.name} at {self.offset}"


def read_record(store: Store, run: str | None) -> RunRecord:
    """The record of a run, whose digest is `run`. Raises OutputError where it is gone or another run's."""
    try:
        record = parsed_run(read(store, RUN), f"{store}/{RUN}")
    except FileNotFoundError as error:
        raise OutputError(
            f"{store} has no {RUN}, expected the record of its run: run `ddis generate` again with the same settings, "
            "which writes it again, or put a copy back."
        ) from error
    if run not in (None, run_digest(record.made, record.labels)):
        raise OutputError(
            f"{store}/{RUN} is not the record that the parts were begun with, expected what {DIVISION} was written "
            "with: put a copy back, or delete it and run `ddis generate` again with the settings of the parts."
        )
    return record


def read_rows(store: Store, part: int) -> tuple[Tar, pa.Table]:
    """A part's tar and its rows, with the columns of PART_SCHEMA.

    Raises FileNotFoundError for a part that is not done, DamagedError for a row file that was read and is wrong, and
    OutputError for one that cannot be read now.
    """
    name = f"{stem(part)}.parquet"
    content = read(store, name)
    try:
        table = pq.read_table(io.BytesIO(content), page_checksum_verification=True)
        tar = Tar(**json.loads(table.schema.metadata[IN_METADATA]))
        kept, digest = table.schema.metadata.get(KEY), RowDigest()
        table = table.select(PART_SCHEMA.names).cast(PART_SCHEMA)
        digest.add(table)
        digest.check(kept)
        return tar, table
    except MemoryError:  # an ArrowException too
        raise
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise DamagedError(
            f"{store}/{name} is damaged ({brief(error)}), expected the rows of a part: {REMAKE}."
        ) from error


def check_tar(store: Store, tar: Tar, whole: bool) -> str:
    """What is wrong with a part's tar, "" if nothing. whole: whether to read it and compare its checksum."""
    size = store.size(tar.name)
    if size is None:
        return "is missing"
    if size != tar.bytes:
        return f"has {size} bytes and should have {tar.bytes}"
    if whole:
        digest = sha256()
        with store.reader(tar.name) as file:
            while piece := file.read(2**20):
                digest.update(piece)
        if digest.hexdigest() != tar.sha256:
            return "has another checksum than it was written with"
    return ""


def read_part(store: Store, part: int) -> Iterator[tuple[PieceOfFile, Row]]:
    """Image and row, with the logits, of each image of a part, whose tar is compared with its checksum first.

    Raises what `read_rows` raises, and DamagedError for a tar that is missing or damaged.
    """
    tar, table = read_rows(store, part)
    if wrong := check_tar(store, tar, whole=True):
        raise DamagedError(
            f"{store}/{tar.name} {wrong}, expected the images of part {part} as they were written: {REMAKE}."
        )
    return _images(store, table)


def _images(store: Store, table: pa.Table) -> Iterator[tuple[PieceOfFile, Row]]:
    places = table.select(["path", "offset", "size"]).to_pylist()
    rows = (row for batch in table.select(SCHEMA.names).to_batches() for row in rows_in(batch))
    for place, row in zip(places, rows, strict=True):
        yield PieceOfFile(store, place["path"], place["offset"], place["size"]), row


def read_parts(place: Path | str) -> Iterator[tuple[PieceOfFile, Row]]:
    """Image and row, with the logits, of each image of a data set in parts, in the order of making: classes mixed.

    The rows of one part are in memory at a time. Raises OutputError where a part is missing, DamagedError where it is
    damaged.
    """
    store = open_store(place)
    division = read_division(store).division
    for part in range(division.parts):
        try:
            images = read_part(store, part)
        except FileNotFoundError as error:
            raise OutputError(
                f"{store} lacks part {part} of {division.parts}, expected all of them: run `ddis generate` again with "
                "the same settings to make it."
            ) from error
        yield from images


def content_of(file: Path | PieceOfFile) -> bytes:
    """The PNG of an image. Raises OutputError where it is missing or cannot be read."""
    try:
        if isinstance(file, PieceOfFile):
            return file.read_bytes()
        with read_explained(file, absent=True):
            return file.read_bytes()
    except FileNotFoundError as error:
        of_parts = isinstance(file, PieceOfFile)
        remedy = (
            REMAKE if of_parts else "run `ddis generate` again with the same settings to make it"
        )
        raise OutputError(
            f"{file} is missing, expected all images of the manifest: {remedy}."
        ) from error


def picture_of(file: Path | PieceOfFile) -> Image.Image:
    """An image in RGB. Raises OutputError where it cannot be read, or is damaged."""
    content = content_of(file)
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return picture.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise no_picture(file, error) from error


def no_picture(file: Path | PieceOfFile, error: Exception) -> DamagedError:
    """What to raise for an image that was read and is none."""
    remedy = (
        REMAKE
        if isinstance(file, PieceOfFile)
        else "delete it and run `ddis generate` again with the same settings, which makes it again"
    )
    return DamagedError(
        f"{file} cannot be read as a picture ({brief(error)}), expected the PNG that was written: {remedy}."
    )
