"""Folders and files of images as people have them: what is left out is said; what is read is what a viewer shows."""

import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from engine.errors import ConfigError
from engine.evaluation.image_files import ImagesWarning
from engine.evaluation.images import open_images

RED, BLUE = (200, 30, 30), (20, 40, 210)


def picture(colour: object = RED, mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> Image.Image:
    return Image.new(mode, size, colour)


def save(path: Path, colour: object = RED, mode: str = "RGB", **how: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(colour, mode).save(path, **how)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("dog", "horse"):
        for number in range(2):
            save(tmp_path / "set" / name / f"{number}.png")
    return tmp_path / "set"


def read(folder: Path) -> tuple[list[str], list[str]]:
    """The labels of a set, and what it warns of."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        labels = open_images(folder).labels()
    return labels, [str(one.message) for one in warned if issubclass(one.category, ImagesWarning)]


PLAIN = ["dog", "dog", "horse", "horse"]


@pytest.mark.parametrize(
    "hidden",
    [
        "dog/.ipynb_checkpoints/0-checkpoint.png",
        "dog/@eaDir/0.png/SYNOFILE_THUMB.png",
        "__MACOSX/dog/0.png",
        ".git/lfs/0.png",
        "#recycle/0.png",
        "dog/._0.png",
        "horse/.hidden.jpg",
    ],
)
def test_what_systems_and_programs_leave_is_no_class_and_is_named(
    folder: Path, hidden: str
) -> None:
    save(folder / hidden, format="PNG")
    labels, warned = read(folder)
    assert labels == PLAIN
    assert len(warned) == 1
    assert warned[0].startswith(f"left out of {folder}: hidden ")
    assert hidden.split("/")[0] in warned[0]


@pytest.mark.parametrize(
    "ending", [".gif", ".jfif", ".jpe", ".webp", ".avif", ".bmp", ".tiff", ".pgm", ".tga", ".GIF"]
)
def test_images_of_any_common_kind_are_read(folder: Path, ending: str) -> None:
    kind = {".jfif": "JPEG", ".jpe": "JPEG", ".pgm": "PPM"}.get(ending, ending.strip(".").upper())
    save(folder / "dog" / f"x{ending}", format=kind)
    labels, warned = read(folder)
    assert (labels, warned) == (["dog", *PLAIN], [])
    (image,) = open_images(folder).chosen({2})
    assert (image.float().mean((1, 2)) - torch.tensor(RED)).abs().max() < 8


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("dog/notes.txt", b"x", "files *.txt (1: dog/notes.txt)"),
        ("labels.csv", b"x", "files *.csv (1: labels.csv)"),
        ("dog/clip.mp4", b"x", "files *.mp4 (1: "),
        ("dog/raw.npy", b"x", "files *.npy (1: "),
        ("dog/0", b"x", "files without an ending (1: dog/0)"),
        ("dog/9.png", b"", "empty files (1: dog/9.png)"),
    ],
)
def test_files_that_are_no_images_are_counted(
    folder: Path, name: str, content: bytes, why: str
) -> None:
    (folder / name).write_bytes(content)
    labels, warned = read(folder)
    assert labels == PLAIN
    assert len(warned) == 1
    assert why in warned[0]


def test_one_summary_says_all(folder: Path) -> None:
    for number in range(5):
        (folder / "dog" / f"{number}.txt").touch()
    (folder / "cat").mkdir()
    (folder / "dog" / "gone.png").symlink_to(folder / "nowhere.png")
    save(folder / "dog" / ".x.png")
    assert read(folder)[1] == [
        f"left out of {folder}: hidden files (1: dog/.x.png); files *.txt (5: dog/0.txt, dog/1.txt, dog/2.txt, ...); "
        "links to nothing (1: dog/gone.png); folders without images (1: cat)."
    ]


def test_links_are_followed_once(folder: Path, tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "a.png")
    (folder / "cat").symlink_to(tmp_path / "elsewhere")
    (folder / "dog" / "linked.png").symlink_to(tmp_path / "elsewhere" / "a.png")
    (folder / "horse" / "loop").symlink_to(folder)
    labels, warned = read(folder)
    assert sorted(labels) == ["cat", "dog", "dog", "dog", "horse", "horse"]
    assert warned == [
        f"left out of {folder}: folders that are there under another name (1: horse/loop)."
    ]


def test_a_linked_folder_is_named_once_and_not_as_empty(folder: Path) -> None:
    (folder / "z").symlink_to(folder / "dog")
    labels, warned = read(folder)
    assert labels == PLAIN
    assert warned == [f"left out of {folder}: folders that are there under another name (1: z)."]


def test_a_file_is_of_the_first_folder_however_deep_it_lies(folder: Path) -> None:
    save(folder / "dog" / "day1" / "2.png")
    save(folder / "dog" / "New folder" / "inner" / "3.png")
    save(folder / "horse" / "day1" / "2.png")
    assert read(folder) == (["dog"] * 4 + ["horse"] * 3, [])


def test_what_is_said_of_a_set_is_said_once(folder: Path) -> None:
    (folder / "notes.txt").touch()
    save(folder / "dog" / "2.png", (*RED, 0), "RGBA")
    images = open_images(folder)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _ in range(2):
            images.labels()
            images.count()
            assert len([*images.batches(8)]) == 1
    said = [str(one.message).split(":")[0] for one in warned]
    assert said == [f"left out of {folder}", f"changed of {folder}"]


@pytest.mark.parametrize("stray", [False, True])
def test_classes_are_the_folders_of_splits(tmp_path: Path, stray: bool) -> None:
    for split in ("train", "val"):
        save(tmp_path / split / "dog" / "day1" / "0.png")
        save(tmp_path / split / "1.png")
    if stray:
        save(tmp_path / "0.png")
    labels, _ = read(tmp_path)
    assert labels == [tmp_path.name] * stray + ["train", "dog", "val", "dog"]


def test_splits_that_are_read_as_one_are_named(tmp_path: Path) -> None:
    for split in ("train", "val"):
        save(tmp_path / split / "dog" / "0.png")
    assert "holds train, val, which are read as one set" in read(tmp_path)[1][0]


def _sixteen() -> Image.Image:
    return Image.fromarray(np.full((4, 6), 0xC000, dtype=np.uint16))


def _transparent() -> Image.Image:
    return picture((*RED, 0), "RGBA")


def _palette() -> Image.Image:
    image = picture(0, "P")
    image.putpalette([*RED, *BLUE])
    image.info["transparency"] = 0
    return image


def _turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(path, exif=exif)


CHANGED = {
    "16-bit": (
        "x.png",
        lambda path: _sixteen().save(path),
        (192,) * 3,
        (4, 6),
        "of more than 8 bits",
    ),
    "16-bit-tiff": (
        "x.tif",
        lambda path: _sixteen().save(path),
        (192,) * 3,
        (4, 6),
        "of more than 8 bits",
    ),
    "float": (
        "x.tif",
        lambda path: Image.fromarray(np.full((4, 6), 0.5, np.float32)).save(path),
        (128,) * 3,
        (4, 6),
        "of more than 8 bits",
    ),
    "alpha": (
        "x.png",
        lambda path: _transparent().save(path),
        (255,) * 3,
        (4, 6),
        "transparent, put on white",
    ),
    "palette": (
        "x.png",
        lambda path: _palette().save(path, transparency=0),
        (255,) * 3,
        (4, 6),
        "transparent, put on white",
    ),
    "exif": ("x.jpg", _turned, RED, (6, 4), "turned as their EXIF says"),
    "moving": (
        "x.gif",
        lambda path: picture().save(path, save_all=True, append_images=[picture(BLUE)]),
        RED,
        (4, 6),
        "of which the first is taken",
    ),
}


@pytest.mark.parametrize(("name", "write", "colour", "size", "how"), CHANGED.values(), ids=CHANGED)
def test_images_are_read_as_a_viewer_shows_them(
    tmp_path: Path, name: str, write: Callable, colour: tuple, size: tuple, how: str
) -> None:
    write(tmp_path / name)
    with pytest.warns(ImagesWarning, match=f"changed of .*: .*{how}.* .1: ") as warned:
        (image,) = next(open_images(tmp_path).batches(4))
    assert len(warned) == 1
    assert image.shape == (3, *size)
    assert (image.mean((1, 2)) * 255 - torch.tensor(colour)).abs().max() < 8


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 100, (100,) * 3),
        ("1", 1, (255,) * 3),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("LA", (100, 255), (100,) * 3),
        ("RGBA", (*BLUE, 255), BLUE),
    ],
)
def test_images_of_other_modes_are_read_without_a_word(
    tmp_path: Path, mode: str, colour: object, expected: tuple
) -> None:
    save(tmp_path / ("x.tif" if mode == "CMYK" else "x.png"), colour, mode)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ImagesWarning)
        (image,) = next(open_images(tmp_path).batches(4))
    assert (image.mean((1, 2)) * 255 - torch.tensor(expected)).abs().max() < 2


def test_a_file_that_is_no_image_is_named_without_python(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(
        ConfigError,
        match=r"x.png is no image \(Pillow knows no such format here\), expected a whole",
    ):
        next(open_images(tmp_path).batches(1))


def table(path: Path, columns: dict, features: dict | None = None) -> Path:
    data = pa.table(columns)
    if features is not None:
        noted = json.dumps({"info": {"features": features}}).encode()
        data = data.replace_schema_metadata({b"huggingface": noted})
    pq.write_table(data, path)
    return path


def encoded() -> dict:
    held = io.BytesIO()
    picture().save(held, format="PNG")
    return {"bytes": held.getvalue(), "path": None}


NAMES = {"names": ["dog", "horse"], "_type": "ClassLabel"}


@pytest.mark.parametrize(
    ("columns", "features"),
    [
        ({"image": 2, "label": [1, 0]}, {"image": {"_type": "Image"}, "label": NAMES}),
        ({"img": 2, "label": [1, 0]}, {"img": {"_type": "Image"}, "label": NAMES}),
        ({"image": 2, "fine_label": [1, 0]}, {"image": {"_type": "Image"}, "fine_label": NAMES}),
        (
            {"image": 2, "label": ["horse", "dog"]},
            {"image": {"_type": "Image"}, "label": {"_type": "Value"}},
        ),
        ({"image": 2, "label": ["horse", "dog"]}, None),
    ],
    ids=["names", "img", "fine", "texts", "plain"],
)
def test_labels_of_a_parquet_file_are_names(
    tmp_path: Path, columns: dict, features: dict | None
) -> None:
    values = {key: [encoded()] * 2 if value == 2 else value for key, value in columns.items()}
    file = table(tmp_path / "a.parquet", values, features)
    assert read(file) == (["horse", "dog"], [])
    assert next(open_images(file).batches(2)).shape == (2, 3, 4, 6)


def test_numbers_without_names_are_warned_of(tmp_path: Path) -> None:
    for values in ([7, 3], [7.0, 3.0]):
        file = table(tmp_path / "a.parquet", {"image": [encoded()] * 2, "label": values})
        labels, warned = read(file)
        assert labels == [str(value) for value in values]
        assert "the labels of" in warned[0]
        assert f"are numbers ({', '.join(labels)})" in warned[0]


def test_one_of_several_label_columns_is_to_be_chosen(tmp_path: Path) -> None:
    """As in CIFAR-100's file."""
    values = {"img": [encoded()] * 2, "fine_label": [1, 0], "coarse_label": [0, 0]}
    features = {"img": {"_type": "Image"}, "fine_label": NAMES, "coarse_label": NAMES}
    file = table(tmp_path / "a.parquet", values, features)
    with pytest.raises(
        ConfigError,
        match=r"several label columns \(fine_label, coarse_label\), expected .*: rename the one",
    ):
        open_images(file).labels()
    assert next(open_images(file).batches(2)).shape == (2, 3, 4, 6)


def test_several_labels_of_one_image_are_refused(tmp_path: Path) -> None:
    file = table(tmp_path / "a.parquet", {"image": [encoded()], "label": [["dog", "horse"]]})
    with pytest.raises(
        ConfigError, match=r"row 0 .* has the label \['dog', 'horse'\], expected one"
    ):
        open_images(file).labels()


@pytest.mark.parametrize(
    ("labels", "wording"),
    [
        ([0, None], "row 1 of .* has no label"),
        ([-1, 0], "row 0 of .* has the label -1, expected 0 to 1"),
        ([0, 2], "row 1 of .* has the label 2, expected 0 to 1"),
    ],
)
def test_labels_that_name_no_class_are_refused(tmp_path: Path, labels: list, wording: str) -> None:
    features = {"image": {"_type": "Image"}, "label": NAMES}
    file = table(tmp_path / "a.parquet", {"image": [encoded()] * 2, "label": labels}, features)
    with pytest.raises(ConfigError, match=wording):
        open_images(file).labels()


def test_a_folder_of_parquet_files_is_answered_with_their_names(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    table(tmp_path / "data" / "train-00000.parquet", {"image": [encoded()], "label": [0]})
    with pytest.raises(
        ConfigError, match=r"1 parquet files \(train-00000.parquet first\), expected one"
    ):
        open_images(tmp_path).labels()


def test_domains_may_be_numbers_or_missing(tmp_path: Path) -> None:
    file, content = tmp_path / "set.parquet", io.BytesIO()
    picture().save(content, "png")
    rows = [
        {"image": {"bytes": content.getvalue()}, "label": "dog", "domain": domain}
        for domain in (1, 2, 1, None)
    ]
    pq.write_table(pa.Table.from_pylist(rows), file)
    assert open_images(file, "1").count() == 2
    with pytest.raises(ConfigError, match=r"'3' is in no row of .*, expected one of 1, 2, None"):
        open_images(file, "3").labels()
