"""Sets of images that are read in order and never held whole: data set folders, folders of images, parquet files."""

import io
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from engine.datasets.dataset import ImageFile, has_manifest, read_dataset
from engine.errors import ConfigError
from engine.evaluation.image_files import (
    ENDINGS,
    Notes,
    image_files,
    labels_by_folder,
    rgb_pixels,
    warn_of_numbers,
)
from engine.evaluation.image_tables import LABEL, bytes_of, rows_of
from engine.urls import check_local

IMAGE_SETS = "a folder of images or a .parquet file"
REFERENCES = "a folder of images, a .parquet file or a .safetensors file of statistics"


@dataclass(frozen=True)
class ImageSet:
    """Where images come from.

    one_size: whether another size than the first's is an error. said: the warnings so far, each given once.
    """

    path: Path
    domain: str | None = None
    one_size: bool = False
    said: set[str] = field(default_factory=set, compare=False, repr=False)

    def batches(self, size: int) -> Iterator[Tensor]:
        """(N, 3, H, W) in [0, 1], at most `size` of one H x W; a change of the size ends a batch."""
        held: list[Tensor] = []
        first: torch.Size | None = None
        for name, image in self._images():
            first = first or image.shape
            self._check_size(name, image, first)
            if held and (len(held) == size or held[0].shape != image.shape):
                yield _stacked(held)
                held = []
            held.append(image)
        if held:
            yield _stacked(held)

    def labels(self) -> list[str]:
        """The class name of each image, in the order of `batches`; opens no image.

        It is the label in a manifest, the first folder below the set that leads to a file, or a parquet file's column
        `label`.
        """
        if self.path.is_file():
            labels = [label for _, label in rows_of(self.path, self.domain, LABEL)]
            warn_of_numbers(self.path, Counter(labels), Notes(self.said))
        elif has_manifest(self.path):
            labels = [row.label for _, row in read_dataset(self.path)]
        else:
            labels = labels_by_folder(self.path, [Path(name) for name, _ in self._files()])
        if not labels:
            raise self._without_images()
        return labels

    def count(self) -> int:
        """How many images there are; decodes none."""
        return sum(1 for _ in self._contents())

    def chosen(self, places: Collection[int]) -> Iterator[Tensor]:
        """Pixels (3, H, W) uint8 of the images at these places of the order, ascending; decodes no others."""
        first: torch.Size | None = None
        notes = Notes(self.said)
        contents = islice(self._contents(), max(places, default=-1) + 1)
        for place, (name, content) in enumerate(contents):
            if place in places:
                image = rgb_pixels(name, content, notes)
                first = first or image.shape
                self._check_size(name, image, first)
                yield image
        notes.warn(self.path)

    def _check_size(self, name: str, image: Tensor, first: torch.Size) -> None:
        if self.one_size and image.shape != first:
            raise ConfigError(
                f"{name} is of {_size(image.shape)} pixels and the first image of {_size(first)}, expected one size "
                "in the whole set: resize them all, or take the stray one out."
            )

    def _images(self) -> Iterator[tuple[str, Tensor]]:
        """Name and pixels (3, H, W) uint8 of each image. Raises ConfigError where there is none."""
        none = True
        notes = Notes(self.said)
        for name, content in self._contents():
            none = False
            yield name, rgb_pixels(name, content, notes)
        notes.warn(self.path)
        if none:
            raise self._without_images()

    def _contents(self) -> Iterator[tuple[str, ImageFile | io.BytesIO]]:
        """Name and encoded content of each image, in order."""
        if not self.path.is_file():
            yield from self._files()
            return
        for name, image in rows_of(self.path, self.domain, "image"):
            yield name, io.BytesIO(bytes_of(image, self.path))

    def _files(self) -> Iterator[tuple[str, ImageFile]]:
        """Image files by name: those of the manifest in a data set of ours, else all below the folder."""
        if has_manifest(self.path):
            yield from ((str(path), path) for path, _ in read_dataset(self.path))
            return
        notes = Notes(self.said)
        found = list(image_files(self.path, notes))
        notes.warn(self.path)
        yield from ((str(path), path) for path in found)

    def _without_images(self) -> ConfigError:
        held = (
            sorted(path.name for path in self.path.rglob("*.parquet")) if self.path.is_dir() else []
        )
        if held:
            return ConfigError(
                f"{self.path} holds no images and {len(held)} parquet files ({held[0]} first), expected one of them: "
                "name the file."
            )
        return ConfigError(
            f"{self.path} has no images, expected a folder with images ({', '.join(sorted(ENDINGS))}), in one "
            "folder for each class or not, or a parquet file with rows: check the path."
        )


def open_images(
    path: Path | str, domain: str | None = None, one_size: bool = False, takes: str = REFERENCES
) -> ImageSet:
    """The images of a folder or parquet file. domain: only the rows of this value in a parquet file's column 'domain'.

    takes: what the path may be, for the message that says that it is not there.
    Raises ConfigError where the path is not there or a URL, or a folder is asked for a domain.
    """
    check_local(path)
    path = Path(path).expanduser()
    if not path.exists():
        raise ConfigError(f"there is no {path}, expected {takes}: check the path.")
    if domain is not None and path.is_dir():
        raise ConfigError(
            f"domain {domain!r} was asked of the folder {path}, expected a parquet file with a column 'domain' or "
            "the judge's reference: leave `domain` out, or give the folder of that domain alone."
        )
    return ImageSet(path, domain, one_size)


@dataclass(frozen=True)
class Pooled:
    """Several sets, read one after the other as if they were one."""

    sets: tuple[ImageSet, ...]

    @property
    def path(self) -> str:
        return ", ".join(str(images.path) for images in self.sets)

    @property
    def domain(self) -> str | None:
        """The domain that all of them are of; None where they were not asked for one."""
        return self.sets[0].domain

    def batches(self, size: int) -> Iterator[Tensor]:
        """As `ImageSet.batches`; a batch ends with its set."""
        for images in self.sets:
            yield from images.batches(size)

    def labels(self) -> list[str]:
        """As `ImageSet.labels`."""
        return [label for images in self.sets for label in images.labels()]


def open_pool(folders: Sequence[Path], domain: str | None = None, one_size: bool = False) -> Pooled:
    """Several sets as one. domain: only its rows of parquet files with a column 'domain'; folders are read whole.

    Raises ConfigError where some of the sets have the column and some have not, and for what `open_images` refuses.
    """
    having = [path for path in folders if domain is not None and has_domains(path)]
    if having and len(having) < len(folders):
        others = ", ".join(str(path) for path in folders if path not in having)
        raise ConfigError(
            f"domain {domain!r} picks rows of {having[0]}, and {others} has no column 'domain', expected domains in "
            "all sets that are measured as one: measure them apart, or leave `domain` out."
        )
    return Pooled(
        tuple(open_images(path, domain if having else None, one_size) for path in folders)
    )


def has_domains(path: Path) -> bool:
    """Whether `path` is a parquet file with a column 'domain'."""
    try:
        return path.is_file() and "domain" in pq.read_schema(path).names
    except pa.ArrowInvalid:
        return False


def _stacked(images: list[Tensor]) -> Tensor:
    return torch.stack(images).float() / 255


def _size(shape: torch.Size) -> str:
    return f"{shape[2]} x {shape[1]}"
