"""The folder that a run leaves behind, and that any trainer reads.

    images/<class>/<index>.png   one folder per class: torchvision's ImageFolder, datasets' "imagefolder"
    manifest.parquet             one row per image, by class and index: seed, prompt, logits, ...
    labels.json                  class number, label and folder name: loaders number the folders by name, not by class
    run.json                     request, models, versions, device, peak bytes, seconds
    contact_sheet.png

An image counts as done once its line in the journal is whole; a run that is killed at any moment and continued ends
with the same bytes as an undisturbed one (but for what `run.json` measured).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from engine.datasets.contact_sheet import SHEET, sheet_of
from engine.datasets.images import png_bytes, to_picture
from engine.datasets.manifest import (
    JOURNAL,
    MANIFEST,
    Journal,
    Row,
    read_manifest,
    restore_journal,
    write_manifest,
)
from engine.datasets.names import IMAGES, LABELS, class_folders, image_place, labels_json
from engine.datasets.part_reading import PieceOfFile, picture_of, read_parts
from engine.datasets.parts import has_parts
from engine.datasets.run_record import RUN, check_same_run, write_run
from engine.errors import ConfigError, OutputError
from engine.files import OURS, explained, make_folder, remove_leftovers, write_whole
from engine.image_key import ImageKey
from engine.locks import lock_folder, unlock_folder
from engine.urls import check_local

if TYPE_CHECKING:
    from engine.types import Sample


def open_dataset(
    folder: Path | str, made: Mapping[str, Any], labels: Mapping[int, str] | Sequence[str]
) -> "DatasetWriter":
    """Begin a data set in `folder`, or resume the one that is there. Use it in a `with`.

    made: everything that the images depend on, as JSON values (see `run_record`); a folder begun with something else is
    refused.
    labels: class number -> label of the classes that are made, or the labels of all classes in order.

    Raises ConfigError for labels that are empty or doubled, OutputError where the folder cannot be written, is being
    written, belongs to something else, or was begun with other settings. Nothing is written in these cases.
    """
    labels = dict(labels) if isinstance(labels, Mapping) else dict(enumerate(labels))
    return DatasetWriter(Path(folder), made, labels)


class DatasetWriter:
    """Writes samples as they are done, in any order. Made by `open_dataset`."""

    def __init__(self, folder: Path, made: Mapping[str, Any], labels: dict[int, str]) -> None:
        self.folder = folder
        self._made = made
        self._labels = labels
        self._names = {str(number): labels[number] for number in sorted(labels)}
        self._folders = class_folders(labels)
        self._added = 0
        self._journal: Journal | None = None  # None where the data set is finished
        _refuse_foreign(folder)
        make_folder(folder)
        self._lock: int | None = lock_folder(folder)
        try:
            self._begin()
            self.done: set[ImageKey] = self._continue()
        except BaseException:
            self.close()
            raise

    def add(self, sample: "Sample") -> None:
        """Write one image and what is known of it. An image that is done already is left as it is."""
        if (
            sample.key.class_index not in self._labels
            or sample.label != self._labels[sample.key.class_index]
        ):
            raise ConfigError(
                f"a sample is of class {sample.key.class_index}, {sample.label!r}, expected one of the classes that "
                f"{self.folder} was opened with: open it with all labels of the run."
            )
        if sample.key in self.done:
            return
        if self._journal is None:
            self._journal = restore_journal(self.folder)
        path = self._path(sample.key)
        content = png_bytes(to_picture(sample.image))
        make_folder(path.parent)
        write_whole(path, content)
        self._journal.add(Row.of(sample, path.relative_to(self.folder).as_posix()))
        self.done.add(sample.key)
        self._added += 1

    def finish(self, measured: Mapping[str, Any]) -> None:
        """Write the manifest, the contact sheet and what was measured. Does nothing to a folder that is finished.

        measured: device, peak_bytes, seconds, ... of this call. Added are `images`, the number that this call made, and
        `skipped_guidance_steps` of all images of the folder.
        """
        if self._journal is None:
            return
        if not self.done:
            raise OutputError(
                f"{self.folder} has no image, expected at least one: add samples before finishing it."
            )
        write_whole(self.folder / SHEET, png_bytes(sheet_of(self._labels, self.done, self._path)))
        skipped = sum(row.skipped for row in self._journal.rows())
        counts = {"images": self._added, "skipped_guidance_steps": skipped}
        write_run(self.folder, self._made, self._names, {**measured, **counts})
        write_manifest(self.folder, self._journal.rows())
        self._journal.delete()
        self._journal = None

    def close(self) -> None:
        """Let go of the folder. What was added stays, and a later run continues from there."""
        if self._lock is not None:
            unlock_folder(self.folder, self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _begin(self) -> None:
        """Check that the folder is this run's, or make it so."""
        journal = self.folder / JOURNAL
        empty = not (self.folder / MANIFEST).exists() and not (
            journal.exists() and journal.stat().st_size
        )
        # Without an image, a run may begin with other settings.
        begun = (self.folder / RUN).exists() and not empty
        if begun:
            check_same_run(self.folder, self._made, self._names)
        for folder in (self.folder, *(self.folder / IMAGES).glob("*/")):
            remove_leftovers(folder)
        if not begun:
            write_run(self.folder, self._made, self._names, {})
        if not begun or not (self.folder / LABELS).exists():
            write_whole(self.folder / LABELS, labels_json(self._labels))

    def _continue(self) -> set[ImageKey]:
        """The images that are written down and still there; opens the journal unless all of a manifest's are."""
        if (self.folder / MANIFEST).exists() and not (self.folder / JOURNAL).exists():
            written = [row.key for row in read_manifest(self.folder)]
            if all(self._path(key).exists() for key in written):
                return set(written)
            self._journal = restore_journal(self.folder)
        else:
            self._journal = Journal(self.folder)
        for key in self._journal.images():
            if not self._path(key).exists():
                self._journal.forget(key)
        return set(self._journal.images())

    def _path(self, key: ImageKey) -> Path:
        return self.folder / image_place(self._folders, key)


ImageFile = Path | PieceOfFile
"""Where an image is; `read_bytes` gives its PNG."""


def read_dataset(folder: Path | str, mixed: bool = False) -> Iterator[tuple[ImageFile, Row]]:
    """Image file and manifest row, with the logits, of each image of a finished data set.

    By class and index, or `mixed` by index and class, as those of a data set in parts always are. Raises OutputError
    where the folder is no finished data set, ConfigError where it is named by a URL.
    """
    check_local(folder)
    if has_parts(Path(folder)):
        yield from read_parts(Path(folder))
        return
    for row in read_manifest(Path(folder), mixed):
        yield Path(folder) / row.path, row


def has_manifest(path: Path) -> bool:
    """Whether `path` is a data set of ours, finished or not. Raises ConfigError where it is named by a URL."""
    check_local(path)
    return path.is_dir() and (
        has_parts(path)
        or (path / MANIFEST).exists()
        or ((path / RUN).exists() and (path / IMAGES).exists())
    )


def load_sample(file: ImageFile, row: Row) -> "Sample":
    """One image of a data set as it was handed to the writer, but for its rounding to 8 bits and its curve.

    Raises OutputError where it cannot be read, or is damaged.
    """
    import torch

    from engine.types import Sample

    pixels = torch.from_numpy(np.array(picture_of(file))).permute(2, 0, 1)
    return Sample(
        key=row.key,
        label=row.label,
        seed=row.seed,
        prompt=row.prompt,
        token=row.token,
        image=pixels.float() / 255,
        logits=torch.from_numpy(row.logits.copy()),
        l_bn=row.l_bn,
        confidence=row.confidence,
        group=row.group,
        skipped=row.skipped,
    )


def _refuse_foreign(folder: Path) -> None:
    """Raise OutputError where `folder` exists and is no data set, nor empty."""
    with explained(folder):
        names = [entry.name for entry in folder.iterdir()] if folder.exists() else []
    if has_parts(folder):
        raise OutputError(
            f"{folder} holds a data set in parts, expected one that a single process writes: continue it with "
            "`share` or `ray`, or choose another folder."
        )
    foreign = sorted(name for name in names if not name.startswith(OURS))
    if foreign and RUN not in foreign:
        raise OutputError(
            f"{folder} holds files that are no data set ({', '.join(foreign[:3])}{', ...' * (len(foreign) > 3)}), "
            "expected a new or empty folder, or a data set to continue: choose another folder."
        )
