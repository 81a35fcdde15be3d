"""Parquet files of images, as `datasets` and others write them, read a few rows at a time, labels by their names."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import ConfigError, brief

LABEL = "label"
KINDS = {"image": "Image", LABEL: "ClassLabel"}
"""What `datasets` calls columns of images and of numbered classes."""
PARQUET_ROWS = 256


def rows_of(path: Path, domain: str | None, wanted: str) -> Iterator[tuple[str, Any]]:
    """Values of the images or labels of a parquet file, a few rows in memory at a time.

    wanted: 'image' or 'label'; a column that the file says is of that kind will do.
    """
    seen: set[str] = set()
    number, none = 0, True
    try:
        with pq.ParquetFile(path) as file:
            column, names = _column(path, file.schema_arrow, wanted)
            columns = [column] if domain is None else [column, "domain"]
            for name in set(columns) - set(file.schema_arrow.names):
                raise KeyError(name)
            for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=columns):
                for row in batch.to_pylist():
                    seen.add(str(row.get("domain")))
                    number += 1
                    if domain is None or str(row["domain"]) == domain:
                        none = False
                        where = f"row {number - 1} of {path}"
                        yield (
                            where,
                            _named(row[column], names, where) if wanted == LABEL else row[column],
                        )
    except (pa.ArrowInvalid, KeyError) as error:
        raise ConfigError(
            f"{path} is no parquet file of images ({brief(error)}), expected the columns image (a struct with "
            "`bytes`) and, where they are asked for, label and domain: check the path, or give a folder of images."
        ) from error
    if number and none:
        raise ConfigError(
            f"domain {domain!r} is in no row of {path}, expected one of {', '.join(sorted(seen))}: choose one."
        )


def _column(path: Path, schema: pa.Schema, wanted: str) -> tuple[str, list[str]]:
    """The column of the images or labels, and what the numbers in it are called, as `datasets` notes it in a file."""
    noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = noted.get("info", {}).get("features", {})
    fitting = [
        name
        for name, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == KINDS[wanted]
    ]
    if wanted not in schema.names and len(fitting) > 1:
        raise ConfigError(
            f"{path} has several {wanted} columns ({', '.join(fitting)}), expected one, or one called {wanted}: rename "
            f"the one that is meant to {wanted}."
        )
    column = fitting[0] if wanted not in schema.names and fitting else wanted
    feature = features.get(column)
    return column, list(feature.get("names") or ()) if isinstance(feature, dict) else []


def _named(label: Any, names: list[str], where: str) -> str:
    """A label in words. Raises ConfigError for a row without one, with several, or with a number that has no name."""
    if label is None or (isinstance(label, str) and not label.strip()):
        raise ConfigError(
            f"{where} has no label, expected the name of its class: write it, or take the row out."
        )
    if isinstance(label, list | dict):
        raise ConfigError(
            f"{where} has the label {label!r}, expected one class: write its name into the column `label`."
        )
    if not names or isinstance(label, str):
        return str(label)
    if not (isinstance(label, int) and 0 <= label < len(names)):
        raise ConfigError(
            f"{where} has the label {label!r}, expected 0 to {len(names) - 1}, the numbers of the file's names: "
            "correct it, or take the row out; -1 often means one that is not public."
        )
    return names[label]


def bytes_of(image: Any, path: Path) -> bytes:
    content = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(content, bytes):
        raise ConfigError(
            f"the column image of {path} holds no bytes, expected each image's file in `image.bytes`: write the images "
            "themselves into the file, not their paths."
        )
    return content
