"""The dataset folder: what is refused and how it says so, what is kept, what is read back."""

import errno
import json
import os
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from engine.datasets.dataset import load_sample, open_dataset, read_dataset
from engine.datasets.manifest import JOURNAL
from engine.datasets.names import class_folders
from engine.datasets.run_record import differences
from engine.errors import ConfigError, DamagedError, OutputError
from engine.types import ImageKey

LABELS = ("dog", "cat")
CONFIG = {"alignment": {"scale": 0.25, "norm": "l2"}, "steps": 30}


@pytest.fixture
def finished(tmp_path, make_sample):
    """A finished data set of two images of each of two classes."""
    with open_dataset(tmp_path / "run", CONFIG, LABELS) as writer:
        for number, label in enumerate(LABELS):
            for index in range(2):
                writer.add(make_sample(number, index, label))
        writer.finish({"seconds": 1.5, "device": "cpu"})
    return tmp_path / "run"


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("label", "folder"),
    [
        ("dog", "dog"),
        ("../x", "x"),
        ("a/b", "a_b"),
        ("tench, Tinca tinca", "tench_Tinca_tinca"),
        ("con", "con_class"),
        ("NUL.txt", "NUL.txt_class"),
        ("...", "class_0"),
        ("bullet train", "bullet_Train"),
        ("test", "Test"),
        ("contest", "contest"),
        ("x" * 300, "x" * 60),
        ("猫", "猫"),
    ],
)
def test_folder_names_are_safe(label, folder):
    assert class_folders({0: label}) == {0: folder}


def test_folder_names_are_unique_where_case_is_ignored():
    folders = class_folders({0: "a/b", 1: "A_B", 2: "a b", 3: "A_B_1"})
    assert len({name.casefold() for name in folders.values()}) == 4


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (("dog", " "), "class 1 is ' '"),
        (("a", "b", "a"), "classes 0 and 2 are both called 'a'"),
        ((), "no classes"),
    ],
)
def test_labels_that_are_empty_or_doubled_are_refused(tmp_path, labels, words):
    with pytest.raises(ConfigError, match=words):
        open_dataset(tmp_path / "run", CONFIG, labels)
    assert not (tmp_path / "run").exists()


def test_rows_come_back_exactly(finished, make_sample):
    rows = list(read_dataset(finished))
    assert [row.key for _, row in rows] == [ImageKey(c, i) for c in range(2) for i in range(2)]
    path, row = rows[3]
    sample = make_sample(1, 1, "cat")
    assert row.logits.dtype == np.float32
    assert torch.equal(torch.from_numpy(row.logits.copy()), sample.logits)
    assert (row.l_bn, row.prompt, row.token, row.group) == (1 / 3, "a cat", "<ddis-1>", "0/0")
    pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
    assert (pixels / 255 - sample.image).abs().max() <= 0.5 / 255 + 1e-6
    assert json.loads((finished / "run.json").read_text())["measured"] == {
        "seconds": 1.5,
        "device": "cpu",
        "images": 4,
        "skipped_guidance_steps": 0,
    }


def test_skipped_steps_are_summed_over_all_calls_and_selections(tmp_path, make_sample):
    def measured(folder):
        return json.loads((folder / "run.json").read_text())["measured"]["skipped_guidance_steps"]

    for number, skipped in enumerate((2, 3)):
        with open_dataset(tmp_path / "run", CONFIG, LABELS) as writer:
            writer.add(replace(make_sample(0, number, "dog"), skipped=skipped))
            if number == 1:
                writer.finish({})
    assert measured(tmp_path / "run") == 5
    with open_dataset(tmp_path / "part", CONFIG, LABELS) as writer:
        for file, row in list(read_dataset(tmp_path / "run"))[1:]:
            writer.add(load_sample(file, row))
        writer.finish({})
    assert measured(tmp_path / "part") == 3


def test_a_manifest_of_an_earlier_version_skipped_nothing(finished):
    before = pq.read_table(finished / "manifest.parquet").drop_columns(["skipped"])
    pq.write_table(before, finished / "manifest.parquet")
    assert [row.skipped for _, row in read_dataset(finished)] == [0] * 4


def test_a_finished_folder_is_left_as_it_is(finished, make_sample):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    with open_dataset(finished, CONFIG, LABELS) as writer:
        assert writer.done == {ImageKey(c, i) for c in range(2) for i in range(2)}
        writer.add(make_sample(0, 0, "dog"))
        writer.finish({"seconds": 9.0})
    assert before == {
        path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()
    }


def test_an_image_that_was_deleted_is_made_again(finished, make_sample):
    before = (finished / "manifest.parquet").read_bytes()
    (finished / "images/cat/00000.png").unlink()
    with open_dataset(finished, CONFIG, LABELS) as writer:
        assert ImageKey(1, 0) not in writer.done
        writer.add(make_sample(1, 0, "cat"))
        writer.finish({})
    assert (finished / "manifest.parquet").read_bytes() == before


def test_a_damaged_image_is_named_and_made_again(tmp_path, make_sample):
    file = tmp_path / "images/dog/00000.png"
    with open_dataset(tmp_path, CONFIG, LABELS) as writer:
        writer.add(make_sample(0, 0, "dog"))
        file.write_bytes(b"no picture")
        with pytest.raises(DamagedError, match=rf"{file} cannot be read as a picture .*delete it"):
            writer.finish({})
    file.unlink()
    with open_dataset(tmp_path, CONFIG, LABELS) as writer:
        writer.add(make_sample(0, 0, "dog"))
        writer.finish({})
    assert [row.key for _, row in read_dataset(tmp_path)] == [ImageKey(0, 0)]


def test_the_order_of_work_does_not_matter(finished, tmp_path, make_sample):
    with open_dataset(tmp_path / "other", CONFIG, LABELS) as writer:
        for number, index in [(1, 1), (0, 1), (1, 0), (0, 0)]:
            writer.add(make_sample(number, index, LABELS[number]))
        writer.finish({})
    for name in ("manifest.parquet", "contact_sheet.png"):
        assert (tmp_path / "other" / name).read_bytes() == (finished / name).read_bytes()


def test_other_settings_are_refused_by_name(finished):
    other = {"alignment": {"scale": 0.5, "norm": "l2"}, "seed": 1}
    with pytest.raises(OutputError) as refusal:
        open_dataset(finished, other, ("dog", "horse"))
    message = str(refusal.value)
    assert "alignment.scale is 0.25 there and 0.5 here" in message
    assert "seed is not set there and 1 here" in message
    assert "steps is 30 there and not set here" in message
    assert 'labels.1 is "cat" there and "horse" here' in message
    assert "norm" not in message
    assert "choose another folder" in message


def test_of_many_differences_five_are_named():
    there = {"a": 1, "z": 1, **{f"old{n}": n for n in range(4)}}
    found = differences(there, {"a": 2, "z": 2, **{f"new{n}": n for n in range(4)}})
    assert found[:2] == ["a is 1 there and 2 here", "z is 1 there and 2 here"]
    assert found[2] == "new0 is not set there and 0 here"
    assert found[5:] == ["and 5 more"]
    assert len(differences({"a": 2}, dict.fromkeys("abcde", 1))) == 5


def test_lists_that_differ_are_shown_whole_unless_they_are_long():
    there, here = {"classes": ["giraffe"], "mean": [0.5]}, {"classes": ["dog", "giraffe"]}
    assert differences(there, here) == [
        "classes are giraffe there and dog, giraffe here",
        "mean is 0.5 there and not set here",
    ]
    assert differences({"classes": None}, here) == ["classes are null there and dog, giraffe here"]
    assert differences({"classes": []}, here) == ["classes are [] there and dog, giraffe here"]
    many = [f"class {n}" for n in range(21)]
    assert differences({"labels": many}, {"labels": [*many[:7], "cat", *many[8:]]}) == [
        'labels.7 is "class 7" there and "cat" here'
    ]
    assert differences({"labels": many}, {"labels": many[:-1]}) == [
        'labels.20 is "class 20" there and not set here'
    ]
    kinds = [{"gpu": "a", "px": [1, 2]}]
    assert differences({"kinds": kinds}, {"kinds": [{"gpu": "b", "px": [1, 2]}]}) == [
        'kinds.0.gpu is "a" there and "b" here'
    ]


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(
        OutputError, match=r"no data set \(thesis.tex\), expected a new or empty folder"
    ):
        open_dataset(tmp_path, CONFIG, LABELS)
    assert names(tmp_path) == ["thesis.tex"]


def test_one_writer_at_a_time(tmp_path):
    with (
        open_dataset(tmp_path, CONFIG, LABELS),
        pytest.raises(OutputError, match="in use by process"),
    ):
        open_dataset(tmp_path, CONFIG, LABELS)
    open_dataset(tmp_path, CONFIG, LABELS).close()
    assert ".ddis-lock" not in names(tmp_path)


def test_a_path_that_cannot_be_a_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(
            OutputError, match=r"cannot write .*expected a folder, where there is a"
        ):
            open_dataset(folder, CONFIG, LABELS)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "No space left on device; expected room on the disk: free some"),
        (errno.EROFS, "Read-only file system; expected a folder that this user may write to"),
    ],
)
@pytest.mark.parametrize("failing_call", [1, 3], ids=["image", "journal"])
def test_a_failing_disk_leaves_nothing_half_written(
    tmp_path, make_sample, monkeypatch, number, words, failing_call
):
    """Calls that sync while an image is added: the class's folder (first image only), image, its name, journal."""
    with open_dataset(tmp_path, CONFIG, LABELS) as writer:
        writer.add(make_sample(0, 0, "dog"))
        journal = (tmp_path / JOURNAL).read_bytes()
        calls = iter(range(1, 100))
        sync = os.fsync

        def failing_sync(descriptor):
            if next(calls) == failing_call:
                raise OSError(number, os.strerror(number))
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", failing_sync)
        with pytest.raises(OutputError, match=words):
            writer.add(make_sample(0, 1, "dog"))
        assert (tmp_path / JOURNAL).read_bytes() == journal
        assert not [name for name in names(tmp_path) if "part" in name]
        writer.add(make_sample(0, 1, "dog"))  # the disk works again
        writer.finish({})
    assert len(list(read_dataset(tmp_path))) == 2


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_a_line_that_was_cut_off_is_not_done(tmp_path, make_sample, cut):
    with open_dataset(tmp_path, CONFIG, LABELS) as writer:
        writer.add(make_sample(0, 0, "dog"))
        writer.add(make_sample(0, 1, "dog"))
    content = (tmp_path / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(content[:-cut])
    with open_dataset(tmp_path, CONFIG, LABELS) as writer:
        assert writer.done == {ImageKey(0, 0)}
        writer.add(make_sample(0, 1, "dog"))
    assert (tmp_path / JOURNAL).read_bytes() == content


def test_an_unfinished_folder_is_no_data_set_yet(tmp_path, make_sample):
    with open_dataset(tmp_path, CONFIG, LABELS) as writer:
        writer.add(make_sample(0, 0, "dog"))
    with pytest.raises(OutputError, match=r"has no manifest.parquet, expected a finished data set"):
        next(read_dataset(tmp_path))


def test_broken_images_and_strange_classes_are_refused(tmp_path, make_sample):
    with open_dataset(tmp_path, CONFIG, LABELS) as writer:
        with pytest.raises(OutputError, match="values that are not finite"):
            writer.add(make_sample(0, 0, "dog", image=torch.full((3, 8, 8), float("nan"))))
        with pytest.raises(ConfigError, match="class 2, 'cow'"):
            writer.add(make_sample(2, 0, "cow"))
        with pytest.raises(OutputError, match="has no image"):
            writer.finish({})
