"""A folder looked through and exported, and two folders compared: figures, filters, and what others read of it."""

import json
import os
from dataclasses import replace
from math import nan
from pathlib import Path

import pytest
import torch

from engine.apps.cli import main
from engine.apps.studio.browse import (
    DROPPED,
    MISTAKEN,
    ORDERS,
    PAGE,
    RECOGNISED,
    Filter,
    filtered,
    grid,
    opened,
)
from engine.apps.studio.choices import finished_folders
from engine.apps.studio.compare import compared, figures, pairs
from engine.datasets.dataset import open_dataset, read_dataset
from engine.errors import ConfigError, OutputError
from engine.evaluation.select import chosen, select, select_by_hand
from engine.report.reading import dataset_overview
from engine.request import ClassifierSource, Request
from engine.settings import Selection
from engine.types import ImageKey, Sample

KEYS = [ImageKey(number, index) for number in (0, 1) for index in range(3)]
LOGITS = [(9, 0), (0, 9), (1, 0), (0, 1), (0, 2), (9, 0)]
"""Of the images of KEYS: the second and the last are taken for the other class."""


def written(folder: Path, seed: int = 0, *, l_bn: float | None = None) -> Path:
    request = Request(
        classifier=ClassifierSource(source="embedded:photo", labels=("dog", "<b>horse")), seed=seed
    )
    made = {"request": request.to_plain(), "models": {}}
    with open_dataset(folder, made, {0: "dog", 1: "<b>horse"}) as writer:
        for place, (key, logits) in enumerate(zip(KEYS, LOGITS, strict=True)):
            values = torch.tensor(logits, dtype=torch.float32)
            writer.add(
                Sample(
                    key=key,
                    label=("dog", "<b>horse")[key.class_index],
                    seed=seed,
                    prompt="a",
                    token="",
                    image=torch.rand(3, 16, 16),
                    logits=values,
                    l_bn=10.0 * place if l_bn is None else l_bn,
                    confidence=values.softmax(0)[key.class_index].item(),
                    group="",
                )
            )
        writer.finish({})
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path / "set")


@pytest.mark.parametrize(
    ("wanted", "places"),
    [
        (Filter(), [0, 1, 2, 3, 4, 5]),
        (Filter(classes=("dog",)), [0, 1, 2]),
        (Filter(confidence=0.7), [0, 2, 3, 4]),
        (Filter(l_bn=20), [0, 1, 2]),
        (Filter(showing=RECOGNISED), [0, 2, 3, 4]),
        (Filter(showing=MISTAKEN), [1, 5]),
        (Filter(showing=DROPPED), [3]),
        (Filter(classes=("dog",), confidence=0.7, l_bn=10), [0]),
        (Filter(order="Most confident first", confidence=0.7), [0, 4, 2, 3]),
        (Filter(order="Highest L_BN first", l_bn=20), [2, 1, 0]),
    ],
)
def test_a_filter_shows_what_passes_it(folder: Path, wanted: Filter, places: list[int]) -> None:
    found = filtered(opened(str(folder)), wanted, {KEYS[3]})
    assert [entry.key for entry in found] == [KEYS[place] for place in places]


def test_images_without_l_bn_pass_any_limit_of_it(tmp_path: Path) -> None:
    found = opened(str(written(tmp_path / "none", l_bn=nan)))
    assert found.highest_l_bn == 0
    for order in ORDERS:
        assert len(filtered(found, Filter(l_bn=0, order=order), ())) == len(KEYS)


def test_a_grid_holds_a_page_of_buttons_and_no_markup_of_a_label(folder: Path) -> None:
    found = opened(str(folder))
    assert found.labels == ["dog", "<b>horse"]
    html = grid([*found.entries], 0, {KEYS[1]})
    assert html.count("<button") == html.count("data:image/") == len(KEYS)
    assert html.count('aria-pressed="true"') == 1
    assert "<b>" not in html
    assert "dog → &lt;b&gt;horse" in html
    many = [found.entries[0]] * (PAGE + 1)
    assert grid(many, 1, ()).count("<button") == 1


def test_finished_folders_are_offered_the_latest_first(folder: Path, tmp_path: Path) -> None:
    deeper = written(tmp_path / "1" / "dag")
    written(tmp_path / "1" / "2" / "3")
    (tmp_path / "begun").mkdir()
    os.utime(folder / "manifest.parquet", (1, 1))
    assert finished_folders(tmp_path) == [str(deeper), str(folder)]
    assert finished_folders(tmp_path / "none") == []


def test_what_is_no_finished_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="expected"):
        opened(str(tmp_path))


def test_what_is_kept_by_hand_is_a_data_set_that_others_read(folder: Path, tmp_path: Path) -> None:
    kept, out = [KEYS[0], KEYS[2]], tmp_path / "chosen"
    report = select_by_hand(folder, out, kept)
    assert (report["kept"], report["images"]) == (2, len(KEYS))
    assert (report["recognised_kept"], report["recognised"]) == (2, 4)
    before = {row.key: (file.read_bytes(), row.path) for file, row in read_dataset(folder)}
    assert {row.key: (file.read_bytes(), row.path) for file, row in read_dataset(out)} == {
        key: before[key] for key in kept
    }
    record = json.loads((out / "run.json").read_text())
    assert record["selection"] == {"by": "hand", "images": ["0.0", "0.2"]}
    assert record["labels"] == {"0": "dog"}
    assert select(out, tmp_path / "again", Selection(keep=0.5, by="energy"))["kept"] == 1
    assert main(["report", str(out)]) == 0
    with pytest.raises(OutputError, match=r"holds a run with other settings: selection\.images"):
        select_by_hand(folder, out, KEYS)


def test_a_choice_by_hand_must_be_of_the_folder(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="the chosen images are none, expected at least one"):
        select_by_hand(folder, out, [])
    with pytest.raises(ConfigError, match=r"the chosen images are 1 that .* lacks"):
        select_by_hand(folder, out, [ImageKey(0, 9), KEYS[0]])
    with pytest.raises(ConfigError, match=r"itself, expected another folder"):
        select_by_hand(folder, folder, KEYS)
    assert not out.exists()


def test_a_selection_knows_the_classes_that_it_has_no_images_of(
    folder: Path, tmp_path: Path
) -> None:
    select_by_hand(folder, tmp_path / "chosen", KEYS[:2])
    found = opened(str(tmp_path / "chosen"))
    assert [entry.predicted for entry in found.entries] == ["dog", "<b>horse"]


def test_what_the_classifier_would_choose_is_what_select_keeps(
    folder: Path, tmp_path: Path
) -> None:
    selection = Selection(keep=0.34, by="energy")
    found = chosen(folder, selection)
    select(folder, tmp_path / "out", selection)
    assert found == [row.key for _, row in read_dataset(tmp_path / "out")] == [KEYS[0], KEYS[4]]


def test_two_folders_are_compared_image_by_image(folder: Path, tmp_path: Path) -> None:
    one = dataset_overview(folder)
    other = dataset_overview(written(tmp_path / "other", seed=5))
    assert [first.path for first, _ in pairs(one, other)] == [image.path for image in one.images]
    assert figures(one, other)[0] == ["images", "6", "6"]
    assert figures(one, other)[1] == ["recognised by the classifier", "67%", "67%"]
    assert figures(one, other)[3] == ["mean L_BN of an image", "25.0", "25.0"]
    html = compared(one, other)
    assert "The seeds differ" in html
    assert "<td>seed</td><td>0</td><td>5</td>" in html
    assert html.count('class="pair"') == len(KEYS)
    same = compared(one, one)
    assert "Equal seeds" in same
    assert "Their settings are the same" in same
    lacking = replace(other, images=other.images[:2])
    assert compared(one, lacking).count('class="pair"') == 2
    assert "No image of one folder" in compared(one, replace(other, images=_moved(other)))


def _moved(facts):
    return tuple(replace(image, path=f"elsewhere/{image.path}") for image in facts.images)
