"""Other people's loaders read the folder, and the pictures are where they should be."""

import io
import json
import math
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from engine.datasets.contact_sheet import contact_sheet, tile_px
from engine.datasets.curves import draw_curves, linear_axis, log_axis, whole_axis
from engine.datasets.dataset import open_dataset, read_dataset
from engine.datasets.lettering import legible
from engine.datasets.webdataset import export_webdataset
from engine.errors import ConfigError, OutputError

LABELS = ("bullet train", "dog", "test tube")


@pytest.fixture
def folder(tmp_path, make_sample) -> Path:
    with open_dataset(tmp_path / "run", {}, LABELS) as writer:
        for number, label in enumerate(LABELS):
            for index in range(3):
                writer.add(make_sample(number, index, label))
        writer.finish({})
    return tmp_path / "run"


def test_torchvisions_rule_finds_the_classes(folder):
    """ImageFolder: classes are the sorted folders under the root, each with at least one image, and nothing else."""
    root = folder / "images"
    assert sorted(entry.name for entry in root.iterdir()) == ["Test_tube", "bullet_Train", "dog"]
    assert all(path.suffix == ".png" for path in root.glob("*/*"))
    kept = json.loads((folder / "labels.json").read_text())
    assert [entry["label"] for entry in kept] == list(LABELS)


def test_datasets_finds_every_image_in_one_split(folder, tmp_path):
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(folder / "images"), cache_dir=str(tmp_path / "cache")
    )
    assert list(loaded) == ["train"]
    assert loaded["train"].num_rows == 9
    assert loaded["train"].features["label"].names == ["Test_tube", "bullet_Train", "dog"]


def test_shards_mix_the_classes_and_are_equal_every_time(folder, tmp_path):
    shards = export_webdataset(folder, tmp_path / "a", images_per_shard=4)
    assert [shard.name for shard in shards] == [
        "shard-00000.tar",
        "shard-00001.tar",
        "shard-00002.tar",
    ]
    again = export_webdataset(folder, tmp_path / "b", images_per_shard=4)
    assert [shard.read_bytes() for shard in shards] == [shard.read_bytes() for shard in again]
    with tarfile.open(shards[0]) as shard:
        assert shard.getnames()[::3] == [
            "00000_00000.png",
            "00001_00000.png",
            "00002_00000.png",
            "00000_00001.png",
        ]


def test_webdataset_reads_images_and_soft_labels(folder, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    shards = export_webdataset(folder, tmp_path / "shards", images_per_shard=4)
    read = list(
        webdataset.WebDataset([str(shard) for shard in shards], shardshuffle=False).decode("pil")
    )
    assert len(read) == 9
    rows = {(row.class_index, row.index): (path, row) for path, row in read_dataset(folder)}
    for entry in read:
        path, row = rows[entry["json"]["class_index"], entry["json"]["index"]]
        assert entry["cls"] == row.class_index
        assert torch.equal(torch.tensor(entry["json"]["logits"]), torch.tensor(row.logits))
        assert entry["png"].tobytes() == Image.open(path).convert("RGB").tobytes()


def test_exports_that_make_no_sense_are_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="images_per_shard is 0, expected at least 1"):
        export_webdataset(folder, tmp_path / "shards", images_per_shard=0)
    with pytest.raises(OutputError, match="is not empty, expected a new folder"):
        export_webdataset(folder, folder)
    with pytest.raises(OutputError, match=r"has no manifest.parquet"):
        export_webdataset(tmp_path / "nothing", tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize(
    ("image_px", "tile"), [(1, 96), (32, 96), (64, 128), (96, 96), (128, 128), (512, 192)]
)
def test_tiles_are_enlarged_by_whole_factors_or_reduced(image_px, tile):
    assert tile_px(image_px) == tile


def test_a_sheet_holds_its_images_in_place():
    red, blue = (
        torch.tensor(rgb).view(3, 1, 1).expand(3, 32, 32) for rgb in ([1.0, 0, 0], [0, 0, 1.0])
    )
    sheet = contact_sheet([[red, blue], [blue]])
    assert sheet.size == (24 + 96 + 4 + 96 + 24, 24 + 96 + 4 + 96 + 24)
    centres = [
        sheet.getpixel((24 + 48 + 100 * x, 24 + 48 + 100 * y)) for y in range(2) for x in range(2)
    ]
    assert centres == [(255, 0, 0), (0, 0, 255), (0, 0, 255), (255, 255, 255)]


def test_a_sheet_grows_with_its_labels_and_refuses_wrong_ones():
    image = torch.zeros(3, 32, 32)
    plain = contact_sheet([[image] * 3])
    labelled = contact_sheet(
        [[image] * 3], ["plain"], ["a", "b", "c"], title="Title", caption="caption"
    )
    assert labelled.width > plain.width
    assert labelled.height > plain.height
    with pytest.raises(ConfigError, match="2 row labels for 1 rows"):
        contact_sheet([[image]], ["a", "b"])
    with pytest.raises(ConfigError, match="has no images"):
        contact_sheet([[]])


def test_letters_that_the_font_lacks_are_replaced():
    assert legible("café \u2013 Øre 猫") == "cafe - Ore ?"


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (linear_axis(8.0, 46.0), (0, 10, 20, 30, 40, 50)),
        (linear_axis(40.0, 42.0), (40, 40.5, 41, 41.5, 42)),
        (linear_axis(3.0, 3.0), None),
        (log_axis(7.0, 900.0), (5, 10, 20, 50, 100, 200, 500, 1000)),
        (log_axis(3.0, 3.0), (2, 5)),
        (whole_axis(30), (1, 5, 10, 15, 20, 25, 30)),
    ],
)
def test_axes_have_round_ticks_that_hold_the_values(axis, ticks):
    assert axis.low < axis.high
    if ticks is not None:
        assert axis.ticks == pytest.approx(ticks)


def is_blue(pixel: tuple[int, int, int]) -> bool:
    red, _, blue = pixel
    return blue - red > 100


def test_a_falling_curve_falls_in_the_picture(tmp_path):
    """The first series is grey, the second blue: find the blue pixels of the plot's left and right end."""
    draw_curves(tmp_path / "c.png", {"plain": [math.nan, 9.0], "DAG": [10.0, 1.0]}, "Title", "L_BN")
    picture = Image.open(io.BytesIO((tmp_path / "c.png").read_bytes()))
    left, right = (
        [y for y in range(64, 416) if is_blue(picture.getpixel((x, y)))] for x in (100, 660)
    )
    assert max(left) + 200 < min(right)
    with pytest.raises(
        ConfigError, match="hold no value that can be drawn, expected at least one finite positive"
    ):
        draw_curves(tmp_path / "d.png", {"plain": [0.0]}, "", "", log=True)
    assert not (tmp_path / "d.png").exists()
