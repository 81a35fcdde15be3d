"""One writer per folder or file: a lock that a killed process lets go of, and that says who holds it."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import OutputError
from engine.files import OURS, explained, make_folder

LOCK = f"{OURS}lock"
SHARED_CHANCES, SHARED_WAIT = 3, 0.05
"""How often a lock to be shared is asked for, and the seconds in between."""


class InUseError(OutputError):
    """Another process writes there."""


def lock_folder(folder: Path) -> int:
    """Make this process the only writer of `folder`. Returns what `unlock_folder` takes; a killed process lets go.

    Raises InUseError where another process holds it.
    """
    return _lock(folder / LOCK, folder)


def _lock(path: Path, what: Path, shared: bool = False) -> int:
    """Hold the lock file `path`, the lock of `what`, and write into it who holds it.

    shared: with others that share it; who came last is then named.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    chances = SHARED_CHANCES if shared else 1
    with explained(what):
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                if _names(path, descriptor):
                    os.ftruncate(descriptor, 0)
                    holder = f"process {os.getpid()} on {socket.gethostname()}"
                    os.pwrite(descriptor, holder.encode(), 0)
                    return descriptor
            except BlockingIOError as error:
                chances -= 1
                # The last of others that share it holds it alone for an instant, to delete it.
                if chances:
                    os.close(descriptor)
                    time.sleep(SHARED_WAIT)
                    continue
                holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
                os.close(descriptor)
                raise InUseError(
                    f"{what} is in use by {holder}, expected one writer: wait until it ends, stop it, or choose "
                    "another place."
                ) from error
            except OSError:
                if not shared:  # else others may hold it
                    path.unlink(missing_ok=True)
                os.close(descriptor)
                raise
            os.close(descriptor)  # its last holder deleted it meanwhile: take the new one


def unlock_folder(folder: Path, descriptor: int) -> None:
    """Give the folder free and leave no lock file behind."""
    (folder / LOCK).unlink(missing_ok=True)
    os.close(descriptor)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Be the only writer of `folder` inside the block. Raises InUseError where another process is."""
    descriptor = lock_folder(folder)
    try:
        yield
    finally:
        unlock_folder(folder, descriptor)


@contextmanager
def locked_file(path: Path, shared: bool = False) -> Iterator[None]:
    """Be the only writer of a file inside the block, beside others in its folder.

    shared: be one of several, each of which asks for it, and keep those out that do not.

    Raises InUseError where another process is.
    """
    make_folder(path.parent)
    lock = path.with_name(f"{LOCK}-{path.name}")
    descriptor = _lock(lock, path, shared)
    try:
        yield
    finally:
        if not shared or _is_last(descriptor):
            lock.unlink(missing_ok=True)
        os.close(descriptor)


def _is_last(descriptor: int) -> bool:
    """Whether nobody else shares a lock, which then is this process's alone."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _names(path: Path, descriptor: int) -> bool:
    """Whether `path` still is the file that `descriptor` has open."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
