"""Files that appear whole or not at all, one writer per folder, and disk errors that say what to do."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from engine.errors import OutputError

OURS = ".ddis-"
TEMPORARY = f"{OURS}part-"
LOCK = f"{OURS}lock"

_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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
        else:
            what = "expected a path that can be written: check it, or choose another folder"
        raise OutputError(f"cannot write {path}: {error.strerror or error}; {what}.") from error


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the name `path` only when the block ends well; else nothing of it remains.

    The bytes are on the disk before the name is, and the name before the function returns.
    """
    temporary = path.with_name(TEMPORARY + path.name + ".part")
    with explained(path):
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` under `path`, whole or not at all; missing folders are made."""
    make_folder(path.parent)
    with whole_file(path) as file:
        file.write(content)


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


def remove_leftovers(folder: Path) -> None:
    """Delete the unfinished files that a killed run left in `folder`. Only the holder of its lock may call this."""
    with explained(folder):
        for leftover in folder.glob(f"{TEMPORARY}*"):
            leftover.unlink(missing_ok=True)


def lock_folder(folder: Path) -> int:
    """Make this process the only writer of `folder`. Returns what `unlock_folder` takes; a killed process lets go.

    Raises OutputError where another process holds it.
    """
    path = folder / LOCK
    with explained(folder):
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _names(path, descriptor):
                    return descriptor
            except BlockingIOError as error:
                os.close(descriptor)
                raise OutputError(
                    f"{folder} is being written by another process, expected one writer: "
                    "wait until it ends, stop it, or choose another folder."
                ) from error
            os.close(
                descriptor
            )  # its last holder deleted it between our open and our lock: take the new one


def unlock_folder(folder: Path, descriptor: int) -> None:
    """Give the folder free and leave no lock file behind."""
    (folder / LOCK).unlink(missing_ok=True)
    os.close(descriptor)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Be the only writer of `folder` inside the block. Raises OutputError where another process is."""
    descriptor = lock_folder(folder)
    try:
        yield
    finally:
        unlock_folder(folder, descriptor)


def _names(path: Path, descriptor: int) -> bool:
    """Whether `path` still is the file that `descriptor` has open."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
