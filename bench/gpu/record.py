"""What a part found."""

import gc
import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from engine.errors import brief
from engine.files import write_whole


class Record:
    """The rows of one part by name, on the disk after each of them."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: dict[str, Any] = {}

    def put(self, name: str, row: object) -> None:
        """Add a row of values that JSON can hold, or replace it."""
        self.rows[name] = row
        write_whole(self.file, json.dumps(self.rows, indent=1).encode() + b"\n")
        print(name, json.dumps(row))

    def attempt(self, name: str, work: Callable[[], object]) -> None:
        """Add what `work` returns, or {"error": ...}: the rows behind it are measured all the same."""
        try:
            row = work()
        except Exception as error:  # noqa: BLE001  # whatever it is, it is reported as this row
            traceback.print_exc()
            row = {"error": brief(error)}
        self.put(name, row)
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
