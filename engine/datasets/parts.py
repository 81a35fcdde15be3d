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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from engine.datasets.images import png_bytes, to_picture
from engine.datasets.manifest import MANIFEST, SCHEMA, Row, to_record
from engine.datasets.row_digest import KEY, RowDigest
from engine.datasets.run_record import CHECKSUM, RUN, checksum
from engine.datasets.store import Store, read
from engine.errors import DamagedError, OutputError, brief

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


def stem(part: int) -> str:
    """The beginning of the names of a part's files."""
    return f"{PARTS}/{part // 1000:03d}/{part:06d}"


def done_parts(store: Store) -> set[int]:
    """The numbers of the parts that are done, from one listing."""
    names = [name.rpartition("/")[2] for name in store.names(PARTS)]
    found = [name.removesuffix(".parquet") for name in names if name.endswith(".parquet")]
    return {int(name) for name in found if name.isdecimal()}


def write_part(store: Store, part: int, samples: Sequence["Sample"], kind: str) -> bool:
    """Write a part's images, then its rows. Returns whether this call made it done; another may have before."""
    content = io.BytesIO()
    places = []
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            name = f"{sample.key.class_index:05d}_{sample.key.index:05d}"
            image = png_bytes(to_picture(sample.image))
            places.append((tar.offset + HEADER, len(image)))
            add_entry(tar, f"{name}.png", image)
            add_entry(tar, f"{name}.cls", str(sample.key.class_index).encode())
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


def add_entry(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file to a tar, of owner 0 with mode 644 and time 0: nothing of this machine."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _row_file(records: list[dict[str, Any]], tar: Tar) -> bytes:
    batch, digest = pa.RecordBatch.from_pylist(records, schema=PART_SCHEMA), RowDigest()
    digest.add(batch)
    metadata = {IN_METADATA: json.dumps(asdict(tar)).encode(), KEY: digest.value().encode()}
    schema, content = PART_SCHEMA.with_metadata(metadata), io.BytesIO()
    with pq.ParquetWriter(content, schema, compression="zstd", write_page_checksum=True) as writer:
        writer.write_batch(batch.replace_schema_metadata(metadata))
    return content.getvalue()


def has_parts(folder: Path) -> bool:
    """Whether a folder holds a data set in parts, also one that lost its division."""
    lost = (folder / RUN).exists() and (folder / PARTS).is_dir()  # else it is a folder of images
    return (folder / DIVISION).exists() or lost


class Begun(NamedTuple):
    """What parts.json says: how the parts are divided, the kind of worker that began them, and what they hold.

    run: `run_digest` of the run's record; None in files of earlier versions.
    """

    division: Division
    kind: Mapping[str, Any]
    run: str | None


def division_bytes(division: Division, kind: Mapping[str, Any], run: str) -> bytes:
    """The content of parts.json, as `Begun` takes it."""
    found = {"format": FORMAT, **asdict(division), "kind": kind, "run": run}
    found[CHECKSUM] = checksum(found)
    return json.dumps(found, indent=2, ensure_ascii=False).encode() + b"\n"


def read_division(store: Store) -> Begun:
    """How a data set is divided, and what began it.

    Raises OutputError where there is no data set in parts, or one of another version, DamagedError where parts.json is
    not as it was written. Of files without a checksum, as they once were, not every damage is found.
    """
    try:
        content = read(store, DIVISION)
    except FileNotFoundError as error:
        if store.names(PARTS):
            raise OutputError(
                f"{store} has parts and no {DIVISION}, expected what the first process wrote: run `ddis generate` "
                "again with the same settings where they were made, which writes it again, or put a copy back."
            ) from error
        if store.size(MANIFEST) is not None:
            raise OutputError(
                f"{store} is finished already and was not made in parts, expected a data set of `ddis generate "
                "--share` or `--ray`: use it as it is."
            ) from error
        raise OutputError(
            f"{store}/{DIVISION} is not there, expected it in a data set that `ddis generate` with `--share` or "
            "`--ray` writes: check the path."
        ) from error
    try:
        found = json.loads(content)
        form = found["format"]
        if isinstance(form, str) and form != FORMAT:
            raise OutputError(
                f"{store}/{DIVISION} has format {form!r}, expected {FORMAT!r}: install the version of ddis that began "
                "the data set."
            )
        kept = found.pop(CHECKSUM, None)
        if kept not in (None, checksum(found)):
            raise ValueError("it has another checksum than it was written with")
        division = Division(int(found["groups"]), int(found["groups_per_part"]))
        return Begun(division, found["kind"], found.get("run"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(
            f"{store}/{DIVISION} is damaged ({brief(error)}), expected what the first process wrote, which never "
            "changes: put a copy back. The same run, begun on such a machine in another folder and stopped, writes an "
            "equal one."
        ) from error
