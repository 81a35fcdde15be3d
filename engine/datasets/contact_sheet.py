"""Rows of images with labels, on white: what a person looks at first."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from PIL import Image, ImageDraw

from engine.datasets.images import png_bytes, to_picture
from engine.datasets.lettering import font, legible, shorten
from engine.datasets.part_reading import picture_of
from engine.errors import ConfigError, counted
from engine.files import write_whole
from engine.image_key import ImageKey

if TYPE_CHECKING:
    from torch import Tensor

Picture: TypeAlias = "Tensor | Image.Image"
SHEET = "contact_sheet.png"

MIN_TILE_PX, MAX_TILE_PX = 96, 192
MARGIN, GAP, SPACE = 24, 4, 16
MAX_LABEL_PX = 220
SHEET_CLASSES, SHEET_IMAGES = 20, 10
"""A data set's sheet shows so many classes, and images of each."""
INK, QUIET, PAPER, EMPTY = "#1f2328", "#656d76", "#ffffff", "#f3f4f6"


def contact_sheet(
    rows: Sequence[Sequence[Picture]],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    *,
    title: str = "",
    caption: str = "",
) -> Image.Image:
    """A sheet with one row of tiles per row of images: (3, H, W) in [0, 1], or pictures, of any size.

    Small images are enlarged by a whole factor to at least 96 px, large ones are reduced to 192 px; proportions stay.
    Rows may differ in length. Raises ConfigError where there is no image, or labels and images don't match.
    """
    columns = max(map(len, rows), default=0)
    if not columns:
        raise ConfigError(
            "a contact sheet has no images, expected at least one: give rows of images."
        )
    for kind, labels, count in (("row", row_labels, len(rows)), ("column", column_labels, columns)):
        if labels and len(labels) != count:
            raise ConfigError(
                f"a contact sheet has {len(labels)} {kind} labels for {count} {kind}s, expected as many: "
                "give one label each, or none."
            )
    pictures = [[_picture(image) for image in row] for row in rows]
    tile = tile_px(max(max(picture.size) for row in pictures for picture in row))
    return _draw(
        pictures, columns, tile, row_labels, column_labels, legible(title), legible(caption)
    )


def sheet_of(
    labels: Mapping[int, str], images: Collection[ImageKey], path_of: Callable[[ImageKey], Path]
) -> Image.Image:
    """The first images of each class of a data set, of classes spread over all where they are too many for one sheet.

    labels: by class number. path_of: the file of an image.
    """
    having = sorted({key.class_index for key in images})
    wanted = set(shown_classes(having))
    first: Counter[int] = Counter()
    shown = {}
    for key in sorted(images):
        if key.class_index in wanted and first[key.class_index] < SHEET_IMAGES:
            first[key.class_index] += 1
            shown[key] = picture_of(path_of(key))
    return sheet_of_classes({number: labels[number] for number in having}, shown, len(images))


def shown_classes(classes: Sequence[int]) -> list[int]:
    """The classes that a sheet shows: all, or SHEET_CLASSES spread over them."""
    if len(classes) <= SHEET_CLASSES:
        return list(classes)
    return [classes[n * len(classes) // SHEET_CLASSES] for n in range(SHEET_CLASSES)]


def sheet_of_classes(
    labels: Mapping[int, str], pictures: Mapping[ImageKey, Image.Image], images: int
) -> Image.Image:
    """A sheet of the pictures, a row for each class. labels: of all classes. images: how many there are in all."""
    rows: dict[int, list[Image.Image]] = {}
    for key in sorted(pictures):
        rows.setdefault(key.class_index, []).append(pictures[key])
    part = "" if len(rows) == len(labels) else f", {len(rows)} of the classes shown"
    return contact_sheet(
        list(rows.values()),
        row_labels=[labels[number] for number in rows],
        caption=f"{counted(images, 'image')} of {counted(len(labels), 'class')}{part}",
    )


def save_contact_sheet(path: Path, sheet: Image.Image) -> None:
    """Write a sheet as PNG, whole or not at all."""
    write_whole(path, png_bytes(sheet))


def reduced(picture: Image.Image) -> Image.Image:
    """A picture as a sheet shows it, where it is larger than the largest tile: what is kept until all are read."""
    rgb = picture.convert("RGB")
    return _fit(rgb, MAX_TILE_PX) if max(rgb.size) > MAX_TILE_PX else rgb


def tile_px(image_px: int) -> int:
    """Side of a tile for images whose longer side is `image_px`."""
    if image_px < MIN_TILE_PX:
        return image_px * -(-MIN_TILE_PX // image_px)
    return min(image_px, MAX_TILE_PX)


def _draw(
    pictures: Sequence[Sequence[Image.Image]],
    columns: int,
    tile: int,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    title: str,
    caption: str,
) -> Image.Image:
    label_font, title_font, caption_font = (font(size) for size in (16, 22, 14))
    names = [shorten(label, label_font, MAX_LABEL_PX) for label in row_labels]
    left = MARGIN + (int(max(map(label_font.getlength, names))) + SPACE if names else 0)
    top = MARGIN + (40 if title else 0) + (28 if column_labels else 0)
    pitch = tile + GAP
    right, bottom = left + columns * pitch - GAP, top + len(pictures) * pitch - GAP
    least = max(title_font.getlength(title), caption_font.getlength(caption)) + 2 * MARGIN
    size = (max(right + MARGIN, int(least) + 1), bottom + MARGIN + (26 if caption else 0))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, INK, title_font, anchor="lt")
    draw.text((MARGIN, bottom + 18), caption, QUIET, caption_font, anchor="lt")
    for column, label in enumerate(column_labels):
        text = shorten(label, label_font, tile)
        draw.text((left + column * pitch + tile / 2, top - 12), text, INK, label_font, anchor="ms")
    for row, line in enumerate(pictures):
        y = top + row * pitch
        if names:
            draw.text((left - SPACE, y + tile / 2), names[row], INK, label_font, anchor="rm")
        for column, picture in enumerate(line):
            x = left + column * pitch
            draw.rectangle((x, y, x + tile - 1, y + tile - 1), EMPTY)
            fitted = _fit(picture, tile)
            sheet.paste(fitted, (x + (tile - fitted.width) // 2, y + (tile - fitted.height) // 2))
    return sheet


def _picture(image: Picture) -> Image.Image:
    return image.convert("RGB") if isinstance(image, Image.Image) else to_picture(image)


def _fit(picture: Image.Image, tile: int) -> Image.Image:
    """The picture in a square of `tile` pixels."""
    scale = tile / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    if size == picture.size:
        return picture
    return picture.resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS)
