"""Sets are equal in number and classes, as the network reads them; what does not fit is one sentence."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from engine.classifiers import Preprocess
from engine.downstream import pixels
from engine.downstream.pixels import read_pixels
from engine.downstream.rows import load_sets
from engine.downstream.sources import FOLDER, NOISE, ORIGINAL, PLAIN, Inputs
from engine.errors import ConfigError, OutputError
from engine.evaluation.images import open_images
from engine.settings.downstream import Comparison


def load(teacher, stored=False, noise=True, **inputs):
    return load_sets(teacher, Inputs(**inputs), Comparison(held_out=0.25, noise=noise), stored)


def test_rows_have_equal_numbers_of_each_class(
    tmp_path: Path, teacher, make_set, make_parquet
) -> None:
    """The folder has 6 of each class, the plain one 9, the original images 4 of the domain."""
    sets = load(
        teacher,
        folder=make_set(tmp_path / "ours", 6),
        plain=make_set(tmp_path / "plain", 9, seed=2),
        original=make_parquet(tmp_path / "train.parquet", 4),
        test=make_parquet(tmp_path / "test.parquet", 5, seed=3),
        domain="near",
    )
    assert list(sets.rows) == [ORIGINAL, FOLDER, PLAIN, NOISE]
    assert [len(row) for row in sets.rows.values()] == [12] * 4
    for name in (ORIGINAL, FOLDER, PLAIN):
        assert sets.rows[name].classes.bincount().tolist() == [4, 4, 4]
        brightest = sets.rows[name].pixels.float().mean((2, 3)).argmax(1)
        assert brightest.equal(sets.rows[name].classes)  # images and classes were not mixed up
    assert sets.tested
    assert sets.test.classes.bincount().tolist() == [5, 5, 5]
    assert (
        sets.test.pixels.float().mean((1, 2, 3)).min() > 50
    )  # none of the black ones of the other domain
    (warning,) = sets.warnings
    assert "12 images a row where the folder has 18" in warning


def test_noise_is_normal_once_it_is_normalised(tmp_path: Path, teacher, make_set) -> None:
    sets = load(teacher, folder=make_set(tmp_path / "ours", 12))
    noise = teacher.preprocess.normalised(sets.rows[NOISE].pixels.float() / 255)
    assert abs(noise.mean().item()) < 0.03
    assert 0.8 < noise.std().item() < 1  # cut to [0, 1] at two standard deviations
    assert set(sets.rows[NOISE].classes.tolist()) == {-1}


def test_without_noise_the_other_rows_are_the_same(
    tmp_path: Path, teacher, make_set, make_parquet
) -> None:
    inputs = {
        "folder": make_set(tmp_path / "ours", 4),
        "original": make_parquet(tmp_path / "train.parquet", 9),
    }
    both, without = (load(teacher, noise=noise, **inputs).rows for noise in (True, False))
    assert list(without) == [ORIGINAL, FOLDER]
    assert all(both[name].pixels.equal(row.pixels) for name, row in without.items())


def test_without_a_test_set_a_part_of_the_folder_is_held_out(
    tmp_path: Path, teacher, make_set
) -> None:
    sets = load(teacher, folder=make_set(tmp_path / "ours", 8))
    assert not sets.tested
    assert sets.test.classes.bincount().tolist() == [2, 2, 2]
    seen = {image.numpy().tobytes() for image in sets.rows[FOLDER].pixels}
    assert len(seen) == 18
    assert not seen & {image.numpy().tobytes() for image in sets.test.pixels}


def test_stored_labels_are_those_of_the_images(tmp_path: Path, teacher, make_set) -> None:
    row = load(teacher, stored=True, folder=make_set(tmp_path / "ours", 5)).rows[FOLDER]
    asked = teacher.logits(row.pixels.float() / 255)
    assert row.logits is not None
    assert (row.logits - asked).abs().max() < 0.1  # of the same images, before they had 8 bits


def test_pixels_are_what_the_network_reads(tmp_path: Path) -> None:
    picture = (torch.rand(20, 30, 3) * 255).to(torch.uint8)
    place = tmp_path / "dog" / "0.png"
    place.parent.mkdir()
    Image.fromarray(picture.numpy()).save(place)
    reads = Preprocess(crop=(8, 8), resize=10, interpolation="bicubic")
    held = read_pixels(open_images(tmp_path), [0], reads)
    whole = reads(picture.permute(2, 0, 1)[None].float() / 255)
    assert (reads.normalised(held.float() / 255) - whole).abs().max() < 1 / 255 / min(reads.std)


def test_a_large_set_lies_in_a_file_and_is_the_same(
    tmp_path, teacher, make_set, monkeypatch
) -> None:
    images = open_images(make_set(tmp_path / "ours", 3))
    in_memory = read_pixels(images, range(9), teacher.preprocess)
    monkeypatch.setattr(pixels, "IN_MEMORY", 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mapped = read_pixels(images, range(9), teacher.preprocess)
    assert mapped.equal(in_memory)
    assert list(tmp_path.glob("ddis-pixels-*")) == []


@pytest.mark.parametrize("what", ["no folder", "unfinished", "another's"])
def test_the_folder_must_be_the_classifiers(tmp_path: Path, teacher, make_set, what: str) -> None:
    if what == "no folder":
        with pytest.raises(
            ConfigError, match=r"is no data set folder, expected one that `ddis generate` wrote"
        ):
            load(teacher, folder=tmp_path)
        return
    folder = make_set(tmp_path / "ours", 2, labels=("dog", "cat", "guitar"))
    if what == "another's":
        with pytest.raises(
            ConfigError, match=r"has class 1, 'cat', of 3, expected the classes of .*dog, horse"
        ):
            load(teacher, folder=folder)
        return
    (folder / "manifest.parquet").unlink()
    with pytest.raises(OutputError, match="expected a finished data set"):
        load(teacher, folder=folder)


def test_other_sets_must_have_the_folders_classes(
    tmp_path: Path, teacher, make_set, make_parquet
) -> None:
    folder = make_set(tmp_path / "ours", 4)
    cats = make_parquet(tmp_path / "cats.parquet", 2, labels=("cat", "dog"))
    with pytest.raises(
        ConfigError, match=r"the test images of .* are of 'cat', expected classes of classifier"
    ):
        load(teacher, folder=folder, test=cats)
    dogs = make_parquet(tmp_path / "dogs.parquet", 2, labels=("dog",))
    with pytest.raises(
        ConfigError, match="the original images have no 'horse', expected some of each class"
    ):
        load(teacher, folder=folder, original=dogs)
    with pytest.raises(
        ConfigError, match=r"domain 'nowhere' is in no row of .*expected one of far, near"
    ):
        load(teacher, folder=folder, test=dogs, domain="nowhere")
    with pytest.raises(
        ConfigError, match=r"have none of the folder's classes, expected some of dog"
    ):
        load(
            teacher,
            folder=make_set(tmp_path / "two", 2, labels=("dog",)),
            test=make_parquet(tmp_path / "h.parquet", 2, labels=("horse",)),
        )
    with pytest.raises(ConfigError, match="has a class of one image, expected at least 2 of each"):
        load(teacher, folder=make_set(tmp_path / "one", 1))


def test_a_domain_chooses_rows_of_parquet_files_alone(
    tmp_path: Path, teacher, make_set, make_parquet
) -> None:
    """Original images may lie in folders, which are whole, beside a parquet file of test images."""
    original = make_set(tmp_path / "train", 5, seed=7) / "images"
    test = make_parquet(tmp_path / "test.parquet", 5)
    sets = load(
        teacher, folder=make_set(tmp_path / "ours", 4), original=original, test=test, domain="near"
    )
    assert sets.rows[ORIGINAL].classes.bincount().tolist() == [4, 4, 4]
    assert len(sets.test) == 15  # of 30, half of them black


def test_a_folder_of_another_classifier_is_told(tmp_path: Path, teacher, make_set) -> None:
    other = {"name": "embedded:art", "fingerprint": "0" * 16}
    mixed = {
        "together": [{"classifier": teacher.describe()}, {"selected_from": {"classifier": other}}]
    }
    for name, made_with in {"one": {"classifier": other}, "two": mixed}.items():
        (told,) = load(teacher, folder=make_set(tmp_path / name, made_with=made_with)).warnings
        assert f"made for another classifier, 'embedded:art' ({'0' * 16}), than" in told
        assert teacher.fingerprint in told
    assert load(teacher, folder=make_set(tmp_path / "own")).warnings == ()


PLAIN_RUN = {"alignment": None, "tokens": None, "prior": {"name": "embedded"}}


@pytest.mark.parametrize(
    ("made_with", "reason"),
    [
        ({"method": {"name": "deepinversion"}}, "by method 'deepinversion'"),
        (PLAIN_RUN | {"alignment": {"scale": 3.0}}, "with alignment"),
        (PLAIN_RUN | {"tokens": "0123"}, "with tokens"),
        ({"selected_from": {"selected_from": PLAIN_RUN | {"tokens": "0123"}}}, "with tokens"),
        ({"together": [PLAIN_RUN, PLAIN_RUN | {"alignment": {"scale": 3.0}}]}, "with alignment"),
    ],
)
def test_guided_images_are_not_taken_for_the_plain_priors(
    tmp_path, teacher, make_set, made_with, reason
) -> None:
    folder, plain = make_set(tmp_path / "ours"), make_set(tmp_path / "plain", made_with=made_with)
    with pytest.raises(ConfigError, match=f"were made {reason}, expected those of the plain prior"):
        load(teacher, folder=folder, plain=plain)


def test_plain_images_may_be_put_together_or_come_without_a_record(
    tmp_path, teacher, make_set
) -> None:
    folder = make_set(tmp_path / "ours")
    several = make_set(
        tmp_path / "plain", made_with={"together": [PLAIN_RUN, {"selected_from": PLAIN_RUN}]}
    )
    for plain in (several, several / "images"):
        assert PLAIN in load(teacher, folder=folder, plain=plain).rows
    with pytest.raises(
        ConfigError, match="the folder itself, expected another set, of the plain prior"
    ):
        load(teacher, folder=folder, plain=tmp_path / "plain" / ".." / "ours")


def test_test_images_that_say_less_than_they_seem_to_are_told(
    tmp_path, teacher, make_set, make_parquet
) -> None:
    folder = make_set(tmp_path / "ours")
    (told,) = load(teacher, folder=folder, test=folder).warnings
    assert "are those that the row 'folder' learns from" in told
    dogs = make_parquet(tmp_path / "dogs.parquet", 6, labels=("dog",))
    (told,) = load(teacher, folder=folder, test=dogs).warnings
    assert "have none of horse, guitar (2 of the folder's classes)" in told


def test_a_missing_set_is_not_asked_for_statistics(tmp_path: Path, teacher, make_set) -> None:
    with pytest.raises(
        ConfigError, match=r"there is no .*x, expected a folder of images or a .parquet file: c"
    ):
        load(teacher, folder=make_set(tmp_path / "ours", 2), test=tmp_path / "x")


def test_soft_labels_of_another_classifier_are_refused(
    tmp_path, teacher, make_set, monkeypatch
) -> None:
    folder = make_set(tmp_path / "ours", 3)
    record = json.loads((folder / "run.json").read_text().replace(teacher.fingerprint, "0" * 16))
    del record["sha256"]
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(
        ConfigError, match=r"soft labels in .* are of another classifier, .*'online'"
    ):
        load(teacher, stored=True, folder=folder)
    load(teacher, folder=folder)  # asked online it does not matter


def test_rows_may_keep_their_own_numbers_and_further_ones_be_named(
    tmp_path: Path, teacher, make_set, make_parquet
) -> None:
    inputs = Inputs(
        folder=make_set(tmp_path / "ours", 6),
        original=make_parquet(tmp_path / "train.parquet", 4),
        test=make_parquet(tmp_path / "test.parquet", 5, seed=3),
        more={"other": make_parquet(tmp_path / "other.parquet", 8, seed=7)},
        domain="near",
    )
    equal = load_sets(teacher, inputs, Comparison(), False)
    assert {name: len(row) for name, row in equal.rows.items()} == dict.fromkeys(
        (ORIGINAL, "other", FOLDER, NOISE), 12
    )
    own = load_sets(teacher, inputs, Comparison(equal_sizes=False), False)
    sizes = {ORIGINAL: 12, "other": 24, FOLDER: 18, NOISE: 18}
    assert {name: len(row) for name, row in own.rows.items()} == sizes
    assert not own.warnings


@pytest.mark.parametrize("name", ["folder", "Plain-images", "a/b", "report.json", "my rows", ""])
def test_a_row_s_name_is_a_folder_s_of_its_own(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        ConfigError, match=f"a row is named '{name}', expected letters, digits, - and _"
    ):
        Inputs(folder=tmp_path, more={name: tmp_path})
