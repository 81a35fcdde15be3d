"""A data set in parts: what many processes write into one place without knowing of each other.

    run.json, labels.json                  as in a folder of images
    parts.json                             how many parts there are, and the kind of worker that makes them
    parts/012/012345-<sha256>.tar          the images of a part, PNG and class number: WebDataset reads them as they are
    parts/012/012345.parquet               their rows, with the place of each image in the tar, and the tar's checksum
    manifest.parquet, contact_sheet.png    written by `engine.datasets.finish`

A part is made whole, and is done once its row file is there, which is created last and never replaced. Two processes
that make the same part write the same tar, or two of which the row file names one; nothing is locked, and a process
that dies leaves nothing that counts.
"""

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.datasets.images import png_bytes, to_picture
from engine.datasets.manifest import SCHEMA, Row, rows_in, to_record
from engine.datasets.row_digest import KEY, RowDigest
from engine.datasets.store import Store, open_store, read
from engine.errors import OutputError, brief

if TYPE_CHECKING:
    from engine.types import Sample

PARTS = "parts"
DIVISION = "parts.json"
FORMAT = "ddis-parts/1"
MOST_PARTS = 20_000
"""Beyond so many groups, several make one part: listing the parts stays a matter of a second."""
PART_SCHEMA = pa.schema(
    [*SCHEMA, ("offset", pa.int64()), ("size", pa.int64()), ("kind", pa.string())]
)
IN_METADATA = b"ddis"
"""Under which key a row file says what it knows of its tar."""
DIGITS = 12
HEADER = 512
"""Bytes before the content of a tar's entry."""


@dataclass(frozen=True)
class Division:
    """How a request's groups make parts: a function of their number alone."""

    groups: int
    groups_per_part: int

    @classmethod
    def of(cls, groups: int) -> "Division":
        return cls(groups, -(-groups // MOST_PARTS))

    @property
    def parts(self) -> int:
        return -(-self.groups // self.groups_per_part)

    def groups_of(self, part: int) -> range:
        """The numbers of the groups in a part."""
        first = part * self.groups_per_part
        return range(first, min(first + self.groups_per_part, self.groups))


@dataclass(frozen=True)
class Tar:
    """What a row file says of its tar: name, bytes, checksum."""

    name: str
    bytes: int
    sha256: str


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


def stem(part: int) -> str:
    """The beginning of the names of a part's files."""
    return f"{PARTS}/{part // 1000:03d}/{part:06d}"


def done_parts(store: Store) -> set[int]:
    """The numbers of the parts that are done, from one listing."""
    names = [name.rpartition("/")[2] for name in store.names(PARTS)]
    found = [name.removesuffix(".parquet") for name in names if name.endswith(".parquet")]
    return {int(name) for name in found if name.isdigit()}


def write_part(store: Store, part: int, samples: Sequence["Sample"], kind: str) -> bool:
    """Write a part's images, then its rows. Returns whether this call made it done; another may have before."""
    content = io.BytesIO()
    places = []
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            name = f"{sample.key.class_index:05d}_{sample.key.index:05d}"
            image = png_bytes(to_picture(sample.image))
            places.append((tar.offset + HEADER, len(image)))
            for ending, data in ((".png", image), (".cls", str(sample.key.class_index).encode())):
                entry = tarfile.TarInfo(
                    name + ending
                )  # of owner 0 and time 0: nothing of this machine
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    data = content.getvalue()
    checksum = sha256(data).hexdigest()
    tar_name = f"{stem(part)}-{checksum[:DIGITS]}.tar"
    records = [
        {**to_record(Row.of(sample, tar_name)), "offset": offset, "size": size, "kind": kind}
        for sample, (offset, size) in zip(samples, places, strict=True)
    ]
    store.create(tar_name, data)
    return store.create(
        f"{stem(part)}.parquet", _row_file(records, Tar(tar_name, len(data), checksum))
    )


def _row_file(records: list[dict[str, Any]], tar: Tar) -> bytes:
    batch, digest = pa.RecordBatch.from_pylist(records, schema=PART_SCHEMA), RowDigest()
    digest.add(batch)
    metadata = {IN_METADATA: json.dumps(asdict(tar)).encode(), KEY: digest.value().encode()}
    schema, content = PART_SCHEMA.with_metadata(metadata), io.BytesIO()
    with pq.ParquetWriter(content, schema, compression="zstd", write_page_checksum=True) as writer:
        writer.write_batch(batch.replace_schema_metadata(metadata))
    return content.getvalue()


def read_rows(store: Store, part: int) -> tuple[Tar, pa.Table]:
    """A part's tar and its rows, with the columns of PART_SCHEMA.

    Raises FileNotFoundError for a part that is not done, OutputError for a damaged row file.
    """
    name = f"{stem(part)}.parquet"
    try:
        table = pq.read_table(io.BytesIO(read(store, name)), page_checksum_verification=True)
        tar = Tar(**json.loads(table.schema.metadata[IN_METADATA]))
        kept, digest = table.schema.metadata.get(KEY), RowDigest()
        table = table.select(PART_SCHEMA.names).cast(PART_SCHEMA)
        digest.add(table)
        digest.check(kept)
        return tar, table
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise OutputError(
            f"{store}/{name} is damaged ({brief(error)}), expected the rows of a part: delete it and run "
            "`ddis generate` again with the same settings, which makes the part again."
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


def has_parts(folder: Path) -> bool:
    """Whether a folder holds a data set in parts."""
    return (folder / DIVISION).exists()


def read_division(store: Store) -> tuple[Division, Mapping[str, Any]]:
    """How a data set is divided, and the kind of worker that makes it.

    Raises OutputError where there is no data set in parts, or one of another version.
    """
    form = None
    try:
        found = json.loads(read(store, DIVISION))
        form = found["format"]
        if form == FORMAT:
            return Division(found["groups"], found["groups_per_part"]), found["kind"]
    except FileNotFoundError:
        form = "absent"
    except (ValueError, KeyError, TypeError):
        pass
    said = "is not there" if form == "absent" else f"has format {form!r}"
    raise OutputError(
        f"{store}/{DIVISION} {said}, expected format {FORMAT!r}, as `ddis generate` with `share` or `ray` writes it: "
        "check the path, or install the version of ddis that began the data set."
    )


def read_part(store: Store, part: int) -> Iterator[tuple[PieceOfFile, Row]]:
    """Image and row, with the logits, of each image of a part. Raises what `read_rows` raises."""
    _, table = read_rows(store, part)
    places = table.select(["path", "offset", "size"]).to_pylist()
    rows = (row for batch in table.select(SCHEMA.names).to_batches() for row in rows_in(batch))
    for place, row in zip(places, rows, strict=True):
        yield PieceOfFile(store, place["path"], place["offset"], place["size"]), row


def read_parts(place: Path | str) -> Iterator[tuple[PieceOfFile, Row]]:
    """Image and row, with the logits, of each image of a data set in parts, in the order of making: classes mixed.

    One part is in memory at a time. Raises OutputError where a part is missing or damaged.
    """
    store = open_store(place)
    division, _ = read_division(store)
    for part in range(division.parts):
        try:
            yield from read_part(store, part)
        except FileNotFoundError as error:
            raise OutputError(
                f"{store} lacks part {part} of {division.parts}, expected all of them: run `ddis generate` again with "
                "the same settings to make it."
            ) from error
