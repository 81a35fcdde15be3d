"""Results that several processes fill at once: a JSON file with `settings`, `environment` and `rows` by name.

A row is read from the file and added to it as it then is, under a lock, so that two runs of a script with other
--methods or --domains keep each other's rows.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from result_files import environment, read_result, write_result

from engine.files import make_folder
from engine.priors import Prior

DTYPE = "bfloat16"
"""Of the networks that draw a study's images: what `auto` is on a CPU that multiplies it. Inversions use float32."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder: another process that comes here waits. It leaves no file, and a killed process lets go."""
    make_folder(folder)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        # Closing alone would leave it to a child that was forked meanwhile.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


class Rows:
    """The rows of one file for the given settings; of a file with other settings none are kept.

    names: of rows, in the order in which the file has them, whoever is first; rows with other names come after them.
    """

    def __init__(
        self, file: Path, settings: Mapping[str, Any], device: object, names: Iterable[str] = ()
    ) -> None:
        self.file = file
        self.settings = _as_json(settings)
        self.environment = environment(device)
        self.names = list(names)
        self._found = self._read().get("settings")

    @property
    def others(self) -> dict[str, Any]:
        """The settings that the file was found with, where they were others: the first row replaces it."""
        return {} if self._found in (None, self.settings) else self._found

    def kept(self, name: str, depends: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The row that the file has, if it was made with all of `depends`; else a new one that holds these alone."""
        depends, result = _as_json(depends or {}), self._read()
        row = result["rows"].get(name, {}) if result.get("settings") == self.settings else {}
        return row if all(row.get(key) == value for key, value in depends.items()) else depends

    def add(self, name: str, row: Mapping[str, Any]) -> None:
        """Write a row, beside those that others have written by now."""
        with alone(self.file.parent):
            result = self._read()
            if result.get("settings") != self.settings:
                if result.get("settings") != self._found:
                    raise SystemExit(
                        f"{self.file} was given other settings by another process, expected {self.settings}: name "
                        "another --out for one of them."
                    )
                result = {"settings": self.settings, "environment": {}, "rows": {}}
            self._found = self.settings
            rows = {**result["rows"], name: row}
            order = [*(known for known in self.names if known in rows), *rows]
            result |= {
                "environment": self.environment,
                "rows": {known: rows[known] for known in order},
            }
            write_result(self.file, result)

    def _read(self) -> dict[str, Any]:
        return read_result(self.file)


def rows_by_domain(
    out: Path,
    prior: Prior,
    settings: Mapping[str, Any],
    names: Iterable[str],
    domains: Iterable[str],
) -> Rows:
    """The rows "name/domain" of what a prior draws."""
    order = [f"{name}/{domain}" for name, domain in product(names, domains)]
    dtype = str(prior.dtype).removeprefix("torch.")
    made_by = {"prior": prior.fingerprint, "dtype": dtype}
    return Rows(out, settings | made_by, prior.device, order)


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as a file gives them back: tuples are lists, for one."""
    return json.loads(json.dumps(values))
