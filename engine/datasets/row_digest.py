"""A checksum of rows, whatever the batches in which they come. Parquet's own covers its pages and no more."""

from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

KEY = b"ddis-rows"
"""Under which key a Parquet file keeps it."""


class RowDigest:
    """SHA-256 of each column, value by value, and of all columns together."""

    def __init__(self) -> None:
        self._columns: dict[str, Any] = {}

    def add(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Take in the next rows."""
        for batch in rows.to_batches() if isinstance(rows, pa.Table) else [rows]:
            for name in batch.schema.names:
                column, digest = batch.column(name), self._columns.setdefault(name, sha256())
                if pa.types.is_list(column.type):
                    digest.update(pc.list_flatten(column).to_numpy(zero_copy_only=False).tobytes())
                    name, column = f"lengths of {name}", pc.list_value_length(column)
                    digest = self._columns.setdefault(name, sha256())
                digest.update("".join(f"{value!r}\n" for value in column.to_pylist()).encode())

    def value(self) -> str:
        """The checksum of all rows so far, as hex digits."""
        columns = sorted((name, digest.hexdigest()) for name, digest in self._columns.items())
        return sha256(repr(columns).encode()).hexdigest()

    def check(self, kept: bytes | str | None) -> None:
        """Raise ValueError where rows are not those that a file was written with. kept: None in files of old."""
        if kept is not None and self.value() != (
            kept.decode() if isinstance(kept, bytes) else kept
        ):
            raise ValueError("its rows have another checksum than they were written with")


def checked(batches: Iterable[pa.RecordBatch], kept: bytes | None) -> Iterator[pa.RecordBatch]:
    """The batches of a file. Raises ValueError at their end where they are not those that it was written with."""
    digest = RowDigest()
    for batch in batches:
        digest.add(batch)
        yield batch
    digest.check(kept)
