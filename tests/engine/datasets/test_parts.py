"""A data set in parts: each image once whoever writes, whole files or none, and what is damaged is found and named."""

import errno
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from PIL import Image

from engine.datasets.contact_sheet import contact_sheet
from engine.datasets.dataset import load_sample, open_dataset, read_dataset
from engine.datasets.finish import finish
from engine.datasets.images import to_picture
from engine.datasets.part_reading import PieceOfFile, read_rows
from engine.datasets.parts import MOST_PARTS, Division, done_parts, stem, write_part
from engine.datasets.shared import SharedDataset
from engine.datasets.store import FolderStore
from engine.errors import ConfigError, OutputError
from engine.files import DAY, TEMPORARY, create_whole, write_whole
from engine.methods.base import MixedGroups
from engine.types import Sample

LABELS = {0: "dog", 1: "cat", 5: "owl"}
KIND = {"canary": "0123456789ab", "device": "cpu", "threads": 1}
OTHER_KIND = {"canary": "ba9876543210", "device": "cpu", "threads": 2}
MADE = {"request": {"seed": 0}, "models": {}}
GROUPS = MixedGroups(tuple(LABELS), 4, 4)
DIVISION = Division.of(len(GROUPS))


def begin(place: Path, kind: dict[str, object] = KIND, mixed: bool = False) -> SharedDataset:
    return SharedDataset(place, MADE, LABELS, DIVISION, kind, mixed)


@pytest.fixture
def samples_of(make_sample):
    """The samples of a part."""

    def made(part: int, **fields: object) -> list[Sample]:
        keys = chain.from_iterable(GROUPS[group] for group in DIVISION.groups_of(part))
        return [make_sample(k.class_index, k.index, LABELS[k.class_index], **fields) for k in keys]

    return made


def written(place: Path, samples_of) -> Path:
    dataset = begin(place)
    for part in dataset.missing():
        dataset.write(part, samples_of(part))
    return place


def bytes_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("images", [1, 7, 28, 1000])
@pytest.mark.parametrize("classes", [(3,), (0, 1, 5), tuple(range(100))])
@pytest.mark.parametrize("batch", [1, 28, 56])
def test_groups_cover_each_image_once(images: int, classes: tuple[int, ...], batch: int) -> None:
    groups = MixedGroups(classes, images, batch)
    sizes = [len(group) for group in groups]
    keys = [key for group in groups for key in group]
    assert len(keys) == len(set(keys)) == groups.images == images * len(classes)
    assert max(sizes) <= batch
    assert max(sizes) - min(sizes) <= 1
    assert keys == sorted(keys, key=lambda key: (key.index, classes.index(key.class_index)))
    assert groups[-1] == groups[len(groups) - 1]
    assert groups[1:3] == [*groups][1:3]
    with pytest.raises(IndexError):
        groups[len(groups)]


def test_divisions_cover_each_group_once() -> None:
    rng = random.Random(0)
    for groups in [1, 2, MOST_PARTS, MOST_PARTS + 1, *(rng.randrange(1, 10**6) for _ in range(20))]:
        division = Division.of(groups)
        assert division.parts <= MOST_PARTS
        assert sum(len(division.groups_of(part)) for part in range(division.parts)) == groups
        ends = [division.groups_of(part) for part in (0, division.parts - 1)]
        assert ends[0].start == 0
        assert ends[1].stop == groups
        assert len(ends[1]) > 0


def test_a_part_is_read_back_and_is_a_tar_of_images_and_classes(tmp_path: Path, samples_of) -> None:
    folder = written(tmp_path / "set", samples_of)
    finish(folder)
    made = list(chain.from_iterable(samples_of(part) for part in range(DIVISION.parts)))
    read = [load_sample(file, row) for file, row in read_dataset(folder)]
    assert [sample.key for sample in read] == [sample.key for sample in made]
    for before, after in zip(made, read, strict=True):
        assert to_picture(after.image).tobytes() == to_picture(before.image).tobytes()
        assert after.logits.tolist() == before.logits.tolist()
    (tar, *_) = sorted((folder / "parts").rglob("*.tar"))
    with tarfile.open(tar) as shard:
        names = shard.getnames()
        with Image.open(io.BytesIO(shard.extractfile(names[0]).read())) as picture:
            assert picture.tobytes() == to_picture(made[0].image).tobytes()
    assert names[:2] == ["00000_00000.png", "00000_00000.cls"]


def test_webdataset_reads_the_parts_as_they_are(tmp_path: Path, samples_of) -> None:
    webdataset = pytest.importorskip("webdataset")
    tars, made = shards(tmp_path, samples_of)
    read = webdataset.WebDataset(tars, shardshuffle=False).decode("pil")
    found = {row["__key__"]: (row["png"].tobytes(), row["cls"]) for row in read}
    assert found == made


def test_datasets_reads_the_parts_as_they_are(tmp_path: Path, samples_of) -> None:
    datasets = pytest.importorskip("datasets")
    tars, made = shards(tmp_path, samples_of)
    read = datasets.load_dataset(
        "webdataset", data_files={"train": tars}, split="train", streaming=True
    )
    found = {row["__key__"]: (row["png"].convert("RGB").tobytes(), row["cls"]) for row in read}
    assert found == made


def shards(tmp_path: Path, samples_of) -> tuple[list[str], dict[str, tuple[bytes, int]]]:
    """The tars of a finished data set, and the pixels and class of each image by the name that it has there."""
    folder = written(tmp_path / "set", samples_of)
    finish(folder)
    made = chain.from_iterable(samples_of(part) for part in range(DIVISION.parts))
    known = {
        f"{sample.key.class_index:05d}_{sample.key.index:05d}": (
            to_picture(sample.image).tobytes(),
            sample.key.class_index,
        )
        for sample in made
    }
    return sorted(map(str, folder.glob("parts/*/*.tar"))), known


def test_same_parts_in_any_order_are_the_same_bytes(tmp_path: Path, samples_of) -> None:
    dataset = begin(tmp_path / "reversed")
    for part in reversed(dataset.missing()):
        dataset.write(part, samples_of(part))
    found = [written(tmp_path / "in order", samples_of), tmp_path / "reversed"]
    assert bytes_of(found[0]) == bytes_of(found[1])
    assert finish(found[0]) == finish(found[1])
    assert bytes_of(found[0]) == bytes_of(found[1])
    before = bytes_of(found[0])
    finish(found[0])
    assert bytes_of(found[0]) == before


def test_two_kinds_write_one_part_and_it_is_kept_once(tmp_path: Path, samples_of) -> None:
    one, other = begin(tmp_path), begin(tmp_path, OTHER_KIND, mixed=True)
    made = samples_of(0)
    others = [replace(sample, image=1 - sample.image) for sample in made]
    with ThreadPoolExecutor(2) as threads:
        done = [
            threads.submit(dataset.write, 0, samples)
            for dataset, samples in ((one, made), (other, others))
        ]
    assert sorted(future.result() for future in done) == [False, True]
    for part in one.missing():
        one.write(part, samples_of(part))
    found = finish(tmp_path)
    assert found.images == GROUPS.images
    assert found.orphans == 1
    kept, table = read_rows(one.store, 0)
    assert {f"{kept.name}"} == {str(n) for n in one.store.names("parts/000") if "000000-" in n}
    assert set(table.column("kind").to_pylist()) <= {KIND["canary"], OTHER_KIND["canary"]}
    assert sum(found.kinds.values()) == GROUPS.images


def test_many_writers_of_one_file_never_fail(tmp_path: Path) -> None:
    def put(number: int) -> bool:
        write_whole(tmp_path / "whole", f"{number:06d}".encode() * 100)
        return create_whole(tmp_path / f"once-{number % 40}", f"{number:06d}".encode() * 100)

    with ThreadPoolExecutor(8) as threads:
        wrote = list(threads.map(put, range(400)))
    assert sum(wrote) == 40
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        assert content == content[:6] * 100, path
    assert len(list(tmp_path.iterdir())) == 41  # no temporary file is left


def test_another_kind_is_refused_with_what_differs(tmp_path: Path) -> None:
    begin(tmp_path)
    with pytest.raises(OutputError, match=r"threads is 1 there and 2 here.*`mixed`"):
        begin(tmp_path, OTHER_KIND)
    begin(tmp_path, OTHER_KIND, mixed=True)
    assert {path.stem for path in (tmp_path / "kinds").iterdir()} == {
        KIND["canary"],
        OTHER_KIND["canary"],
    }


def test_another_run_another_division_and_foreign_files_are_refused(tmp_path: Path) -> None:
    begin(tmp_path / "set")
    with pytest.raises(OutputError, match="seed is 0 there and 1 here"):
        SharedDataset(
            tmp_path / "set", {"request": {"seed": 1}, "models": {}}, LABELS, DIVISION, KIND
        )
    with pytest.raises(OutputError, match="would make 99"):
        SharedDataset(tmp_path / "set", MADE, LABELS, Division.of(99), KIND)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "thesis.tex").touch()
    with pytest.raises(OutputError, match=r"thesis\.tex"):
        begin(tmp_path / "else")
    assert [path.name for path in (tmp_path / "else").iterdir()] == ["thesis.tex"]


def test_layouts_refuse_each_others_folders(tmp_path: Path, make_sample) -> None:
    begin(tmp_path / "parts")
    with pytest.raises(OutputError, match="data set in parts"):
        open_dataset(tmp_path / "parts", MADE, LABELS)
    with open_dataset(tmp_path / "images", MADE, LABELS) as writer:
        writer.add(make_sample(0, 0, "dog"))
    with pytest.raises(OutputError, match="no data set in parts"):
        begin(tmp_path / "images")


def test_parts_that_are_missing_are_counted_and_named(tmp_path: Path, samples_of) -> None:
    dataset = begin(tmp_path)
    dataset.write(1, samples_of(1))
    assert dataset.missing() == [0, 2]
    with pytest.raises(OutputError, match="lacks 2 of its 3 parts, part 0 first"):
        finish(tmp_path)
    assert not (tmp_path / "manifest.parquet").exists()
    with pytest.raises(OutputError, match="lacks part 0 of 3"):
        list(read_dataset(tmp_path))


def damage_tar(folder: Path) -> None:
    (tar,) = (folder / "parts" / "000").glob("000001-*.tar")
    content = bytearray(tar.read_bytes())
    content[600] ^= 1
    tar.write_bytes(content)


def truncate_tar(folder: Path) -> None:
    (tar,) = (folder / "parts" / "000").glob("000001-*.tar")
    tar.write_bytes(tar.read_bytes()[:-700])


def remove_tar(folder: Path) -> None:
    (tar,) = (folder / "parts" / "000").glob("000001-*.tar")
    tar.unlink()


def truncate_rows(folder: Path) -> None:
    path = folder / f"{stem(1)}.parquet"
    path.write_bytes(path.read_bytes()[:-9])


def flip_rows(folder: Path) -> None:
    path = folder / f"{stem(1)}.parquet"
    content = bytearray(path.read_bytes())
    third = len(content) // 3
    content[third : third + 40] = bytes(255 - byte for byte in content[third : third + 40])
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [damage_tar, truncate_tar, remove_tar, truncate_rows, flip_rows],
    ids=lambda d: d.__name__,
)
def test_damage_is_found_and_its_part_alone_is_made_again(
    tmp_path: Path, samples_of, damage
) -> None:
    folder = written(tmp_path / "set", samples_of)
    finish(folder)
    before = bytes_of(folder)
    damage(folder)
    with pytest.raises(OutputError, match=r"1 of the 3 parts of .* are damaged.*part 1"):
        finish(folder)
    dataset = begin(folder)
    assert dataset.missing() == [1]
    dataset.write(1, samples_of(1))
    finish(folder)
    assert bytes_of(folder) == before


def test_what_sizes_alone_do_not_find_is_named_where_it_is_seen(tmp_path: Path, samples_of) -> None:
    folder = written(tmp_path / "set", samples_of)
    damage_tar(folder)
    with pytest.raises(OutputError, match=r"image \d of class \d is damaged.*checksums"):
        finish(folder, check=False)


def test_a_disk_that_is_full_at_any_write_loses_nothing(
    tmp_path: Path, samples_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = written(tmp_path / "calm", samples_of)
    finish(expected)
    writes, full_at = 0, -1
    put_on_disk = os.fsync

    def fsync(descriptor: int) -> None:
        nonlocal writes
        writes += 1
        if writes == full_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        put_on_disk(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    finish(written(tmp_path / "counted", samples_of))
    for full_at in range(1, writes + 1):
        folder, writes = tmp_path / str(full_at), 0
        with pytest.raises(OutputError, match="expected room on the disk"):
            finish(written(folder, samples_of))
        assert not [path for path in folder.rglob(".ddis-*") if path.is_file()]
        finish(written(folder, samples_of))
        assert bytes_of(folder) == bytes_of(expected)


def test_finishing_deletes_what_killed_writers_left_a_day_ago_also_of_a_clock_that_was_ahead(
    tmp_path: Path, samples_of
) -> None:
    folder = written(tmp_path / "set", samples_of)
    left = [
        folder / below / f"{TEMPORARY}{number}"
        for number, below in enumerate((".", "kinds", "parts", "parts/000"))
    ]

    def finished_at(seconds: float) -> list[Path]:
        for path in left:
            path.touch()
            os.utime(path, (seconds, seconds))
        finish(folder)
        return [path for path in left if path.exists()]

    now = time.time()
    assert finished_at(now - DAY / 2) == left  # their writers may be alive
    assert finished_at(now - 2 * DAY) == []
    assert finished_at(now + 3650 * DAY) == left
    assert all(abs(path.stat().st_mtime - now) < DAY for path in left)  # and so a day later, gone


def test_a_tar_whose_rows_were_never_written_does_not_count(tmp_path: Path, samples_of) -> None:
    dataset = begin(tmp_path)
    write_part(dataset.store, 0, samples_of(0), "kind")
    (tmp_path / f"{stem(0)}.parquet").unlink()
    assert done_parts(FolderStore(tmp_path)) == set()
    for part in dataset.missing():
        dataset.write(part, samples_of(part))
    assert finish(tmp_path).orphans == 0  # the same content: the same name


def test_a_piece_of_a_file_reads_as_a_path_does(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    store = FolderStore(tmp_path)
    piece = PieceOfFile(store, "file", 3, 4)
    assert piece.read_bytes() == b"3456"
    assert piece.exists()
    assert not PieceOfFile(store, "file", 8, 4).exists()
    assert not PieceOfFile(store, "none", 0, 1).exists()


def test_records_of_other_versions_are_refused(tmp_path: Path) -> None:
    begin(tmp_path)
    begun = json.loads((tmp_path / "parts.json").read_text())
    (tmp_path / "parts.json").write_text(json.dumps(begun | {"format": "ddis-parts/9"}))
    with pytest.raises(OutputError, match="ddis-parts/9"):
        begin(tmp_path)


def test_labels_are_checked_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="both called"):
        SharedDataset(tmp_path / "set", MADE, {0: "dog", 1: "dog"}, DIVISION, KIND)
    assert not (tmp_path / "set").exists()


def test_finishing_needs_no_torch_and_sheets_keep_pictures_small(
    tmp_path: Path, samples_of
) -> None:
    large = torch.rand(3, 300, 200)
    dataset = begin(tmp_path / "set")
    for part in dataset.missing():
        dataset.write(part, samples_of(part, image=large))
    code = (
        "import sys\nfrom engine.apps.cli import main\n"
        f"code = main(['finish', {str(tmp_path / 'set')!r}, '--json'])\n"
        "sys.exit('torch is loaded' if 'torch' in sys.modules else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["images"] == GROUPS.images
    rows = [[large] * 4] * 3  # a sheet of the pictures in full is the same
    sheet = contact_sheet(rows, list(LABELS.values()), caption="12 images of 3 classes")
    with Image.open(tmp_path / "set" / "contact_sheet.png") as found:
        assert found.tobytes() == sheet.tobytes()
