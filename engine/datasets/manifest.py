"""What is known of each image: a journal while the run goes on, `manifest.parquet` when it is done.

A Parquet file cannot grow safely, so each finished image adds one line to a journal. A line counts only if it is
whole; logits are the bytes of float32 in it, so the manifest does not depend on where a run was interrupted.
"""

import base64
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.datasets.row_digest import KEY, RowDigest, checked
from engine.errors import OutputError, brief
from engine.files import OURS, explained, read_explained, sync_folder, whole_file
from engine.image_key import ImageKey

if TYPE_CHECKING:
    from engine.types import Sample

MANIFEST = "manifest.parquet"
JOURNAL = f"{OURS}journal.jsonl"
ROWS_PER_GROUP = 1024

SCHEMA = pa.schema(
    [
        ("class", pa.int32()),
        ("label", pa.string()),
        ("index", pa.int32()),
        ("seed", pa.int64()),
        ("prompt", pa.string()),
        ("token", pa.string()),
        ("group", pa.string()),
        ("logits", pa.list_(pa.float32())),
        ("l_bn", pa.float64()),
        ("confidence", pa.float64()),
        ("path", pa.string()),
        ("skipped", pa.int32()),
    ]
)


@dataclass(frozen=True, eq=False)
class Row:
    """One image of a data set. logits: (K,) float32, the classifier's; path: relative to the folder, with '/'.

    skipped: as in `Sample`; 0 in a manifest without it.
    """

    class_index: int
    label: str
    index: int
    seed: int
    prompt: str
    token: str
    group: str
    logits: NDArray[np.float32]
    l_bn: float
    confidence: float
    path: str
    skipped: int = 0

    @classmethod
    def of(cls, sample: "Sample", path: str) -> "Row":
        """What the manifest keeps of a sample."""
        return cls(
            class_index=sample.key.class_index,
            label=sample.label,
            index=sample.key.index,
            seed=sample.seed,
            prompt=sample.prompt,
            token=sample.token,
            group=sample.group,
            logits=sample.logits.detach().float().cpu().numpy(),
            l_bn=float(sample.l_bn),
            confidence=float(sample.confidence),
            path=path,
            skipped=sample.skipped,
        )

    @property
    def key(self) -> ImageKey:
        return ImageKey(self.class_index, self.index)


class Journal:
    """The lines of finished images. Holds where each line starts, not what it says."""

    def __init__(self, folder: Path) -> None:
        """Open the journal of `folder`; a last line that was cut off by a kill is dropped."""
        self.path = folder / JOURNAL
        self._starts: dict[ImageKey, int] = {}
        self._size = 0
        if self.path.exists():
            with explained(self.path), open(self.path, "rb+") as file:
                self._scan(file)
                file.truncate(self._size)
                os.fsync(file.fileno())

    def images(self) -> list[ImageKey]:
        """Images that are written down, by class and index."""
        return sorted(self._starts)

    def add(self, row: Row) -> None:
        """Write one row down; it is on the disk when this returns, or not in the journal at all."""
        line = _to_line(row)
        with explained(self.path), open(self.path, "ab") as file:
            try:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.truncate(self.path, self._size)
                raise
            if self._size == 0:
                sync_folder(self.path.parent)
        self._starts[row.key] = self._size
        self._size += len(line)

    def forget(self, key: ImageKey) -> None:
        """Take one image as not done; a later `add` writes it again."""
        self._starts.pop(key, None)

    def delete(self) -> None:
        """Remove the journal's file, once its rows are in the manifest."""
        with explained(self.path):
            self.path.unlink(missing_ok=True)
            sync_folder(self.path.parent)

    def rows(self) -> Iterator[Row]:
        """All rows by class and index, one at a time."""
        if not self._starts:
            return
        with read_explained(self.path), open(self.path, "rb") as file:
            for key in self.images():
                file.seek(self._starts[key])
                yield _from_line(file.readline())

    def _scan(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            try:
                row = _from_line(line)
            except (ValueError, KeyError, TypeError):
                return
            self._starts[row.key] = self._size
            self._size += len(line)


def restore_journal(folder: Path) -> Journal:
    """Turn a finished manifest back into a journal, so that images can be added."""
    with whole_file(folder / JOURNAL) as file:
        file.writelines(map(_to_line, read_manifest(folder)))
    with explained(folder):
        (folder / MANIFEST).unlink()
        sync_folder(folder)
    return Journal(folder)


def write_manifest(folder: Path, rows: Iterable[Row]) -> None:
    """Write `manifest.parquet`, whole. Equal rows in equal order give equal bytes."""
    rows = iter(rows)
    with (
        whole_file(folder / MANIFEST) as file,
        pq.ParquetWriter(file, SCHEMA, compression="zstd", write_page_checksum=True) as writer,
    ):
        digest = RowDigest()
        while group := list(islice(rows, ROWS_PER_GROUP)):
            batch = pa.RecordBatch.from_pylist([to_record(row) for row in group], schema=SCHEMA)
            digest.add(batch)
            writer.write_batch(batch)
        writer.add_key_value_metadata({KEY: digest.value()})


def read_manifest(folder: Path, mixed: bool = False) -> Iterator[Row]:
    """Rows of a finished data set by class and index, a group in memory at a time. Raises OutputError.

    mixed: by index and class instead, so that neighbours are of different classes; holds the whole manifest in memory.
    """
    path = folder / MANIFEST
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            kept = (file.metadata.metadata or {}).get(KEY)
            batches = checked(file.iter_batches(batch_size=ROWS_PER_GROUP), kept)
            if mixed:
                table = pa.Table.from_batches(list(batches), file.schema_arrow)
                ordered = table.sort_by([("index", "ascending"), ("class", "ascending")])
                batches = iter(ordered.to_batches(max_chunksize=ROWS_PER_GROUP))
            for batch in batches:
                yield from rows_in(batch)
    except FileNotFoundError as error:
        raise OutputError(
            f"{folder} has no {MANIFEST}, expected a finished data set: "
            "check the path, or call generate again with the same settings to finish it."
        ) from error
    except (pa.ArrowException, ValueError, OSError, KeyError, TypeError) as error:
        with read_explained(path, absent=True):
            if isinstance(error, OSError) and error.errno:  # Parquet's own have none
                raise
        raise OutputError(
            f"{path} is damaged or no manifest of a data set ({brief(error)}), expected one that generate wrote: "
            "delete it and call generate again with the same settings."
        ) from error


def to_record(row: Row) -> dict[str, Any]:
    record = {
        field: getattr(row, field) for field in row.__dataclass_fields__ if field != "class_index"
    }
    return {"class": row.class_index, **record}


def rows_in(batch: pa.RecordBatch) -> Iterator[Row]:
    """The rows of a batch with the columns of SCHEMA."""
    return map(_from_record, _records(batch))


def _records(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """Rows of a batch with logits as float32 arrays: no trip through Python floats."""
    logits = batch.column("logits")
    plain = batch.drop_columns(["logits"]).to_pylist()
    for position, record in enumerate(plain):
        yield {**record, "logits": logits[position].values.to_numpy(zero_copy_only=False)}


def _from_record(record: dict[str, Any]) -> Row:
    return Row(class_index=record.pop("class"), **record)


def _to_line(row: Row) -> bytes:
    content = asdict(row) | {
        "logits": base64.b64encode(row.logits.astype("<f4").tobytes()).decode()
    }
    return json.dumps(content, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


def _from_line(line: bytes) -> Row:
    """Raises ValueError, KeyError or TypeError for a line that is not whole."""
    if not line.endswith(b"\n"):
        raise ValueError("the line was cut off")
    content = json.loads(line)
    logits = np.frombuffer(base64.b64decode(content.pop("logits"), validate=True), "<f4")
    return Row(logits=logits.astype(np.float32), **content)
