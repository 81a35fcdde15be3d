"""Files that appear whole or not at all."""

import os
from pathlib import Path

from engine.errors import OutputError


def write_whole(path: Path, content: bytes) -> None:
    """Write, fsync and rename, so that a cut leaves the old file or the new one. Raises OutputError if it can't."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror}), expected a writable folder with room for "
            f"{len(content)} bytes: choose another path, or make room."
        ) from error
