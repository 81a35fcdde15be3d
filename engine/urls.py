"""URLs that come as paths: `Path` reads s3://bucket/set as s3:/bucket/set, which would be a folder here."""

import re
from pathlib import Path

from engine.errors import ConfigError, OutputError


def url_in(place: Path | str) -> str | None:
    """The URL that names a place, also one that `Path` has read; None for the path of a file or folder."""
    found = re.match(r"([a-z][a-z0-9+.-]+):/+(?=[^/])", str(place))
    if found is None or Path(place).exists():
        return None
    return f"{found[1]}://{str(place)[found.end() :]}"


def check_path(place: Path) -> None:
    """Raise OutputError for a URL where something is to be written on a disk."""
    if (url := url_in(place)) is not None:
        raise OutputError(
            f"{url} is a URL, expected a path on a disk: only `generate` with --share or --ray writes to a URL, in "
            "parts. Name a local path."
        )


def check_local(place: Path | str) -> None:
    """Raise ConfigError for a data set that is named by a URL, also by one that `Path` has read: s3:/bucket/set."""
    if (url := url_in(place)) is not None:
        raise ConfigError(
            f"{url} is a URL, expected a folder: copy the data set to a disk, and name it there."
        )
