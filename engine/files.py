"""Files that appear whole or not at all, and disk errors that say what to do."""

import errno
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from engine.errors import OutputError
from engine.urls import check_path

OURS = ".ddis-"
TEMPORARY = f"{OURS}part-"
DAY = 24 * 3600
"""Seconds after which nobody is taken to be writing a temporary file any more."""

_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""How a file system says that it has no hard links."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError raised inside into an OutputError that names `path` and what to do."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            what = "expected room on the disk: free some and call again, finished images are kept"
        elif error.errno in _NOT_WRITABLE:
            what = "expected a folder that this user may write to: change its permissions or choose another folder"
        elif error.errno in (errno.EEXIST, errno.ENOTDIR):
            what = "expected a folder, where there is a file: choose another name"
        else:
            what = "expected a path that can be written: check it, or choose another folder"
        raise OutputError(f"cannot write {path}: {error.strerror or error}; {what}.") from error


@contextmanager
def read_explained(path: Path, absent: bool = False) -> Iterator[None]:
    """Turn an OSError of reading into an OutputError. absent: FileNotFoundError passes, and the caller explains it."""
    try:
        yield
    except OutputError:
        raise
    except FileNotFoundError as error:
        if absent:
            raise
        raise OutputError(
            f"cannot read {path}: {error.strerror or error}; expected a file that was written before: check the path."
        ) from error
    except OSError as error:
        raise OutputError(
            f"cannot read {path}: {error.strerror or error}; expected a file that this user may read, on a disk that "
            "works: check both and call again, nothing was deleted."
        ) from error


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the name `path` only when the block ends well; else nothing of it remains.

    The bytes are on the disk before the name is, and the name before the function returns. A device or a pipe is
    written into: a file would take its place.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        with explained(path), open(path, "wb") as file:
            yield file
        return
    with explained(path), _temporary(path) as (temporary, file):
        yield file
        _put_on_disk(file)
        os.replace(temporary, path)
        sync_folder(path.parent)


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` under `path`, whole or not at all; missing folders are made."""
    make_folder(path.parent)
    with whole_file(path) as file:
        file.write(content)


def create_whole(path: Path, content: bytes) -> bool:
    """Write `content` under `path` unless there is a file already, whole or not at all. Returns whether it was written.

    Of several writers at once exactly one writes it. Only without hard links may two do so, and the later file stays.
    """
    make_folder(path.parent)
    with explained(path), _temporary(path) as (temporary, file):
        file.write(content)
        _put_on_disk(file)
        try:
            os.link(temporary, path)
        except FileExistsError:
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "it is a folder") from None
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if path.exists():  # two writers may both pass here: the later whole file stays
                return False
            os.replace(temporary, path)
        sync_folder(path.parent)
        return True


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside `path` under a name that no other writer uses; the name is gone afterwards."""
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as file:
            yield temporary, file
    finally:
        temporary.unlink(missing_ok=True)


def _put_on_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in a file. Raises OutputError where there is none; remedy: how it is made again."""
    with read_explained(path):
        content = path.read_bytes()
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise OutputError(f"{path} is damaged, expected a JSON object: {remedy}.")
    return found


def check_writable(path: Path) -> None:
    """Raise OutputError now where `write_whole` could not write `path` later. Writes nothing."""
    with explained(path):
        place = path.parent
        while not place.exists() and place != place.parent:
            place = place.parent
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{place} is no folder")
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def make_folder(folder: Path) -> None:
    """Create a folder and its parents where they are missing, each safely on the disk."""
    if folder.is_dir():
        return
    check_path(folder)
    with explained(folder):
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Put a folder's names on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, older_than: float = 0) -> None:
    """Delete the unfinished files and folders that killed runs left in `folder`.

    older_than: seconds for which one was not written to. 0 deletes all: only the holder of the folder's lock may
    ask for that. One that is dated more than a day ahead, by a clock that was wrong, is dated now, for a later call.
    """
    with explained(folder):
        for leftover in folder.glob(f"{TEMPORARY}*"):
            with suppress(FileNotFoundError):  # its writer ended meanwhile
                if not older_than or _seconds_since_written(leftover) > older_than:
                    if leftover.is_dir():
                        shutil.rmtree(leftover)
                    else:
                        leftover.unlink()


def _seconds_since_written(path: Path) -> float:
    """How long ago a file, or the newest one of a folder, was written to."""
    now, times = time.time(), []
    for one in (path, *path.glob("*")):
        times.append(one.stat().st_mtime)
        if times[-1] > now + DAY:
            with suppress(PermissionError):
                os.utime(one)
    return now - max(times)
