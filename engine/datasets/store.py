"""Where the files of a data set in parts lie: a folder, on a disk of its own or shared, or a URL that fsspec knows.

What many writers need of it is one promise: `create` writes a file whole, unless there is one already.
"""

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISDIR
from tempfile import NamedTemporaryFile, gettempdir
from typing import Any, BinaryIO, Protocol, cast

from engine.errors import ConfigError, EngineError, MissingExtraError, OutputError, brief
from engine.files import (
    DAY,
    OURS,
    create_whole,
    explained,
    make_folder,
    read_explained,
    remove_leftovers,
    whole_file,
)

EXTRAS = {"s3": "s3", "s3a": "s3"}  # by protocol; other packages are named by fsspec
FOLDERS = ("file", "local")
"""Of folders, whose files fsspec writes neither whole nor once."""
FORGOTTEN = ("memory",)
"""Of what is gone with the process."""
EXISTS, CONFLICT = 412, 409  # a service's answers to a second writer
LONGEST_WAIT = 3.0  # seconds, for a file that others write just now; waits double


class Store(Protocol):
    """Files by names with '/'. Raises OutputError where one cannot be read or written."""

    def create(self, name: str, content: bytes) -> bool:
        """Write a file whole unless there is one. Returns whether this call wrote it."""

    def writer(self, name: str) -> Any:
        """A binary file that takes the name when the block ends well, in place of one that has it."""

    def reader(self, name: str) -> Any:
        """A binary file that can be sought in. Raises FileNotFoundError."""

    def names(self, folder: str) -> list[str]:
        """Names of the files below a folder, at any depth, in no order; none where it is not there."""

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if there is none."""

    def remove(self, name: str) -> None:
        """Delete a file, if there is one."""

    def tidy(self) -> None:
        """Delete what killed writers left a day ago or earlier."""


def open_store(place: Path | str) -> Store:
    """The store in a folder, or behind a URL such as s3://bucket/set. Nothing is written."""
    if not is_url(place):
        return FolderStore(Path(place))
    protocols = {link.partition("://")[0] for link in str(place).split("::")}
    if not protocols.isdisjoint(FOLDERS):
        path = str(place).rpartition("://")[2] or "/"
        raise ConfigError(f"{place} is the URL of a folder, expected its path: name {path}.")
    if not protocols.isdisjoint(FORGOTTEN):
        raise ConfigError(
            f"{place} is in this process's memory, expected what outlives it: name a folder or a service's URL."
        )
    return UrlStore(str(place))


def is_url(place: Path | str) -> bool:
    """Whether a place is named by a URL."""
    return isinstance(place, str) and "://" in place


def read(store: Store, name: str, offset: int = 0, size: int = -1) -> bytes:
    """A file's bytes, or `size` of them from `offset` on. Raises FileNotFoundError."""
    with store.reader(name) as file:
        if offset:
            file.seek(offset)
        return cast(bytes, file.read(size))


class FolderStore:
    """Files in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def create(self, name: str, content: bytes) -> bool:
        return create_whole(self.root / name, content)

    @contextmanager
    def writer(self, name: str) -> Iterator[BinaryIO]:
        path = self.root / name
        make_folder(path.parent)
        with whole_file(path) as file:
            yield file

    @contextmanager
    def reader(self, name: str) -> Iterator[BinaryIO]:
        with read_explained(self.root / name, absent=True), open(self.root / name, "rb") as file:
            yield file

    def names(self, folder: str) -> list[str]:
        with read_explained(self.root / folder):
            return [
                path.relative_to(self.root).as_posix()
                for path in (self.root / folder).rglob("*")
                if not path.name.startswith(OURS) and path.is_file()
            ]

    def size(self, name: str) -> int | None:
        try:
            with read_explained(self.root / name, absent=True):
                found = (self.root / name).stat()
                return None if S_ISDIR(found.st_mode) else found.st_size
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        with explained(self.root / name):
            (self.root / name).unlink(missing_ok=True)

    def tidy(self) -> None:
        for folder in (self.root, *self.root.glob("*/"), *self.root.glob("*/*/")):
            remove_leftovers(folder, older_than=DAY)


class UrlStore:
    """Files behind a URL. `create` asks the service to refuse a second writer (S3: If-None-Match).

    A service that knows no such request lets two writers at once both write, and keeps the later file.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        protocol = url.partition("://")[0]
        try:
            from fsspec.core import url_to_fs

            self.files, self.root = url_to_fs(self.url)
        except ImportError as error:
            if protocol in EXTRAS:
                raise MissingExtraError(
                    f"{url!r} needs a package that is not installed ({error}), expected the extra: "
                    f"`pip install 'ddis[{EXTRAS[protocol]}]'`, or name a folder."
                ) from error
            raise ConfigError(
                f"{url!r} needs a package that is not installed ({error}), expected one for {protocol}://: install it, "
                "or name a folder."
            ) from error
        except Exception as error:  # each protocol has its own
            raise ConfigError(
                f"{url!r} cannot be opened ({brief(error)}), expected a URL that fsspec knows: name one, or a folder."
            ) from error

    def __str__(self) -> str:
        return self.url

    def create(self, name: str, content: bytes) -> bool:
        if self.size(name) is not None:  # not every service refuses
            return False
        seconds = 0.1
        while True:
            try:
                with self._explained(name):
                    self.files.pipe_file(self._path(name), content, mode="create")
                return True
            except FileExistsError:
                return False
            except OutputError as error:
                status = _http_status(error)
                if status == EXISTS:
                    return False
                if status != CONFLICT or seconds > LONGEST_WAIT:
                    raise
            time.sleep(seconds)
            seconds *= 2

    @contextmanager
    def writer(self, name: str) -> Iterator[BinaryIO]:
        # A file of fsspec is completed however its block ends, so the content waits in one of ours.
        with explained(Path(gettempdir())), NamedTemporaryFile() as file:
            yield cast(BinaryIO, file)
            file.flush()
            with self._explained(name):
                self.files.put_file(file.name, self._path(name))

    @contextmanager
    def reader(self, name: str) -> Iterator[BinaryIO]:
        with self._explained(name), self.files.open(self._path(name), "rb") as file:
            yield file

    def names(self, folder: str) -> list[str]:
        with self._explained(folder):
            self.files.invalidate_cache()
            found = self.files.find(self._path(folder))
        return [path[len(self.root) :].lstrip("/") for path in found]

    def size(self, name: str) -> int | None:
        try:
            with self._explained(name):
                self.files.invalidate_cache()
                return int(self.files.size(self._path(name)))
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        with self._explained(name):
            if self.files.exists(self._path(name)):
                self.files.rm_file(self._path(name))

    def tidy(self) -> None:
        """A service shows no file before it is whole."""

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except (FileExistsError, FileNotFoundError, EngineError):
            raise
        except (OSError, ValueError, NotImplementedError) as error:
            what = "a place that can be reached, read and written with the credentials at hand"
            what = "room" if getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT) else what
            raise OutputError(
                f"{self.url}/{name} failed ({error}), expected {what}: check it and run the same command again, which "
                "resumes."
            ) from error


def _http_status(error: BaseException | None) -> int | None:
    """What a service answered, of an error that came of it; None where it came of something else."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return cast(int | None, response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
        error = error.__cause__
    return None
