"""Image files as people have them: which files of a folder are images, and one as RGB; nothing is lost silently."""

import io
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from engine.datasets.dataset import ImageFile
from engine.datasets.part_reading import content_of
from engine.errors import ConfigError, EngineWarning, OutputError, brief

ENDINGS = {
    *(
        ".png",
        ".apng",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".jp2",
        ".bmp",
        ".dib",
        ".webp",
        ".avif",
        ".gif",
    ),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".heic", ".heif"),
}
"""Of files that are images. Of those that Pillow cannot read here, opening one says so."""
SYSTEM = (
    "@eadir",
    "__macosx",
    "#recycle",
    "$recycle.bin",
    "lost+found",
    "thumbs.db",
    "desktop.ini",
)
"""What systems and programs put among a user's files, in small letters; names that begin with a dot are others."""
TWICE = "folders that are there under another name"
SHOWN = 3
WHITE = (255, 255, 255)
ORIENTATION, UPRIGHT = 0x0112, 1
"""EXIF's tag of how a camera was held, and its value for upright."""
NUMBER = re.compile(r"-?\d+(\.\d*)?")
SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval"}


class ImagesWarning(EngineWarning):
    """Files that were left out, or images that were changed to be read."""


@dataclass
class Notes:
    """What was left out of a set of images, and what was changed in some of them, for one summary.

    said: warnings that were given before, which are not repeated. left_out: by reason, the names. changed: by what was
    done, the names.
    """

    said: set[str] = field(default_factory=set)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    changed: dict[str, list[str]] = field(default_factory=dict)

    def leave(self, why: str, name: str) -> None:
        self.left_out.setdefault(why, []).append(name)

    def change(self, how: str, name: str) -> None:
        self.changed.setdefault(how, []).append(name)

    def warn(self, path: Path) -> None:
        """Say what there is to say, in one sentence each, and forget it."""
        for what, found in (("left out", self.left_out), ("changed", self.changed)):
            if found:
                parts = "; ".join(
                    f"{why} ({len(names)}: {_some(names)})" for why, names in found.items()
                )
                self.say(f"{what} of {path}: {parts}.")
        self.left_out, self.changed = {}, {}

    def say(self, text: str) -> None:
        """Warn, unless the same was said before."""
        if text not in self.said:
            self.said.add(text)
            warnings.warn(text, ImagesWarning, stacklevel=4)


def image_files(folder: Path, notes: Notes) -> Iterator[Path]:
    """The image files below a folder, by name; links are followed, hidden and system files left out.

    notes: gets what is left out, and folders of classes that hold no image.
    """
    found: list[Path] = []
    for place, names in _folders(folder, notes):
        for name in sorted(names):
            path = place / name
            kind = _kind(path)
            if kind == "image":
                found.append(path)
            elif kind:
                notes.leave(kind, str(path.relative_to(folder)))
    with_images = {path.relative_to(folder).parts[0] for path in found if path.parent != folder}
    known = {*with_images, *notes.left_out.get(TWICE, ())}
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not is_hidden(entry.name) and entry.name not in known:
            notes.leave("folders without images", entry.name)
    if len(with_images) > 1 and {name.lower() for name in with_images} <= SPLITS:
        notes.say(
            f"{folder} holds {', '.join(sorted(with_images))}, which are read as one set: name one of them alone."
        )
    yield from sorted(found)


def labels_by_folder(folder: Path, files: Sequence[Path]) -> list[str]:
    """The class of each file: the first folder on the way to it from `folder`, as torchvision's ImageFolder has it.

    Where all first folders are splits, it is the second one. A file that lies in `folder` itself is of that name.
    """
    ways = [path.relative_to(folder).parts[:-1] for path in files]
    after = int({way[0].lower() for way in ways if way} <= SPLITS)
    return [(*way[after:], *way[-1:], folder.name)[0] for way in ways]


def _folders(folder: Path, notes: Notes) -> Iterator[tuple[Path, list[str]]]:
    """Each folder below one with its files' names; a folder that links lead to twice is read once."""
    seen: set[Path] = set()
    for place, inner, names in os.walk(folder, followlinks=True):
        here = Path(place)
        if here.resolve() in seen:
            inner.clear()
            notes.leave(TWICE, str(here.relative_to(folder)))
            continue
        seen.add(here.resolve())
        hidden = [name for name in inner if is_hidden(name)]
        for name in sorted(hidden):
            notes.leave("hidden or system folders", str((here / name).relative_to(folder)))
        inner[:] = sorted(name for name in inner if name not in hidden)
        yield here, names


def _kind(path: Path) -> str:
    """'image', "" for what nobody misses, or why a file is left out."""
    if is_hidden(path.name):
        return "hidden files" if path.suffix.lower() in ENDINGS else ""
    if path.is_symlink() and not path.exists():
        return "links to nothing"
    if not path.is_file():
        return ""
    if path.suffix.lower() in ENDINGS:
        return "image" if path.stat().st_size else "empty files"
    return "files without an ending" if not path.suffix else f"files *{path.suffix.lower()}"


def is_hidden(name: str) -> bool:
    """Whether a file or folder is a system's, or hidden, which no one puts a class into."""
    return name.startswith(".") or name.lower() in SYSTEM


def rgb_pixels(name: str, content: ImageFile | io.BytesIO, notes: Notes) -> Tensor:
    """Pixels (3, H, W) uint8 of an encoded image as a viewer shows it: turned, on white, its first picture.

    notes: gets what had to be changed. Raises ConfigError for what is no whole image.
    """
    try:
        held = content if isinstance(content, io.BytesIO) else io.BytesIO(content_of(content))
        with Image.open(held) as picture:
            if getattr(picture, "n_frames", 1) > 1:
                notes.change("moving or several pictures, of which the first is taken", name)
            if picture.getexif().get(ORIENTATION, UPRIGHT) not in (0, UPRIGHT):
                notes.change("turned as their EXIF says", name)
            pixels = np.array(_rgb(ImageOps.exif_transpose(picture), name, notes))
    except OutputError:
        raise  # names its own remedy
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        kind = "is no image" if isinstance(error, UnidentifiedImageError) else "cannot be read"
        why = (
            "Pillow knows no such format here"
            if isinstance(error, UnidentifiedImageError)
            else brief(error)
        )
        raise ConfigError(
            f"{name} {kind} ({why}), expected a whole image file: write it again as PNG, or take it out."
        ) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _rgb(picture: Image.Image, name: str, notes: Notes) -> Image.Image:
    """A picture of any mode in 8-bit RGB."""
    if picture.mode.startswith("I") or picture.mode == "F":
        notes.change("of more than 8 bits, scaled to 8", name)
        return _eight_bits(picture)
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        layers = picture.convert("RGBA")
        least, _ = layers.getchannel("A").getextrema()
        if isinstance(least, int | float) and least < 255:
            notes.change("transparent, put on white", name)
        whole = Image.new("RGBA", picture.size, (*WHITE, 255))
        return Image.alpha_composite(whole, layers).convert("RGB")
    return picture.convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """A picture of 16-bit, 32-bit or float values in 8 bits: 16 bits by their range, others by their own."""
    values = np.array(picture, dtype=np.float64)
    if picture.mode == "F":
        top = (
            1.0
            if np.nanmax(values) <= 1
            else 255.0
            if np.nanmax(values) <= 255
            else np.nanmax(values)
        )
    else:
        top = 255.0 if values.max() <= 255 else 65535.0 if values.max() <= 65535 else values.max()
    grey = np.nan_to_num(values / top * 255).clip(0, 255).round().astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def warn_of_numbers(path: Path, labels: Mapping[str, int] | Counter[str], notes: Notes) -> None:
    """Warn where the labels of a parquet file are numbers without names, which no prompt can use."""
    if labels and all(NUMBER.fullmatch(label) for label in labels):
        notes.say(
            f"the labels of {path} are numbers ({_some([*labels])}) and the file does not say what they are called: "
            "prompts need names. Write the names into the column `label`."
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return f"{shown}, ..." if len(names) > SHOWN else shown
