"""A data set in parts: each image once whoever writes, whole files or none, and what is damaged is found and named."""

import errno
import io
import json
import os
import random
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from tempfile import gettempdir
from threading import Thread
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from engine.apps.cli import main
from engine.datasets.contact_sheet import contact_sheet
from engine.datasets.dataset import load_sample, open_dataset, read_dataset
from engine.datasets.finish import finish
from engine.datasets.images import to_picture
from engine.datasets.part_reading import PieceOfFile, read_part, read_record, read_rows
from engine.datasets.parts import (
    MOST_PARTS,
    Division,
    done_parts,
    read_division,
    stem,
    write_part,
)
from engine.datasets.row_digest import KEY, checked
from engine.datasets.shared import SharedDataset
from engine.datasets.store import FolderStore, UrlStore, read
from engine.errors import ConfigError, DamagedError, OutputError
from engine.evaluation.images import open_images
from engine.files import DAY, TEMPORARY, create_whole, write_whole
from engine.methods.base import MixedGroups
from engine.report.reading import dataset_overview
from engine.types import Sample

LABELS = {0: "dog", 1: "cat", 5: "owl"}
KIND = {"canary": "0123456789ab", "device": "cpu", "threads": 1}
OTHER_KIND = {"canary": "ba9876543210", "device": "cpu", "threads": 2}
MADE = {"request": {"seed": 0}, "models": {}}
GROUPS = MixedGroups(tuple(LABELS), 4, 4)
DIVISION = Division.of(len(GROUPS))


def begin(place: Path | str, kind: dict[str, object] = KIND, mixed: bool = False) -> SharedDataset:
    return SharedDataset(place, MADE, LABELS, DIVISION, kind, mixed)


@pytest.fixture
def samples_of(make_sample):
    """The samples of a part."""

    def made(part: int, **fields: object) -> list[Sample]:
        keys = chain.from_iterable(GROUPS[group] for group in DIVISION.groups_of(part))
        return [make_sample(k.class_index, k.index, LABELS[k.class_index], **fields) for k in keys]

    return made


def written(place: Path | str, samples_of) -> Any:
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
        end = 0
        for part in range(division.parts):
            ours = division.groups_of(part)
            assert ours.start == end < ours.stop
            end = ours.stop
        assert end == groups


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
    (kind,) = set(table.column("kind").to_pylist())
    whose = {KIND["canary"]: made, OTHER_KIND["canary"]: others}[kind]
    for sample, found_ in zip(whose, read_part(one.store, 0), strict=True):
        picture = to_picture(load_sample(*found_).image)
        assert picture.tobytes() == to_picture(sample.image).tobytes()
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


@pytest.mark.parametrize("first", [True, False])
def test_workers_that_give_other_bytes_each_time_are_refused_for_that(
    tmp_path: Path, first: bool
) -> None:
    begin(tmp_path, KIND | {"reproducible": not first})
    with pytest.raises(OutputError, match=r"give other bytes each time.*`mixed`"):
        begin(tmp_path, OTHER_KIND | {"reproducible": first})
    begin(tmp_path, OTHER_KIND | {"reproducible": False}, mixed=True)


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
    with pytest.raises(OutputError, match=r"parts\.json is not there, expected .*`--share` or"):
        finish(tmp_path / "images")


def test_a_data_set_that_no_parts_made_has_nothing_to_finish(tmp_path: Path, make_sample) -> None:
    with open_dataset(tmp_path, MADE, LABELS) as writer:
        writer.add(make_sample(0, 0, "dog"))
        writer.finish({})
    with pytest.raises(OutputError, match="is finished already and was not made in parts, expect"):
        finish(tmp_path)


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


def truncate_both(folder: Path) -> None:
    truncate_tar(folder)
    truncate_rows(folder)


def flip_rows(folder: Path) -> None:
    path = folder / f"{stem(1)}.parquet"
    content = bytearray(path.read_bytes())
    third = len(content) // 3
    content[third : third + 40] = bytes(255 - byte for byte in content[third : third + 40])
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [damage_tar, truncate_tar, remove_tar, truncate_rows, truncate_both, flip_rows],
    ids=lambda d: d.__name__,
)
def test_damage_is_found_and_its_part_alone_is_made_again(
    tmp_path: Path, samples_of, damage
) -> None:
    folder = written(tmp_path / "set", samples_of)
    finish(folder)
    before = bytes_of(folder)
    damage(folder)
    with pytest.raises(OutputError, match=r"1 of the 3 parts of .* are damaged.*part 1") as raised:
        finish(folder)
    assert str(raised.value).count("expected") == 1
    dataset = begin(folder)
    assert dataset.missing() == [1]
    dataset.write(1, samples_of(1))
    finish(folder)
    assert bytes_of(folder) == before


READ_ERRORS = [
    OSError(errno.EIO, "Input/output error"),
    PermissionError(errno.EACCES, "Permission denied"),
    TimeoutError("Read timeout"),
]


def once(real: Callable[..., Any], error: OSError, ending: str) -> Callable[..., Any]:
    """`real`, which fails the first time that it opens a file of this ending of part 1."""
    left = [error]

    def opened(*words: Any, **more: Any) -> Any:
        if left and any(re.search(rf"000001.*{ending}$", str(word)) for word in words):
            raise left.pop()
        return real(*words, **more)

    return opened


@pytest.mark.usefixtures("in_memory")
@pytest.mark.parametrize("ending", [r"\.parquet", r"\.tar"])
@pytest.mark.parametrize("error", READ_ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("kind", ["folder", "url"])
def test_a_part_that_cannot_be_read_is_not_taken_for_damaged(
    tmp_path: Path, samples_of, monkeypatch: pytest.MonkeyPatch, kind: str, error: OSError, ending
) -> None:
    place = tmp_path / "set" if kind == "folder" else f"memory://{tmp_path.name}"
    store = begin(place).store
    written(place, samples_of)
    before = {name: read(store, name) for name in store.names("")}
    with monkeypatch.context() as patched:
        if isinstance(store, UrlStore):
            files = type(store.files)
            patched.setattr(files, "open", once(files.open, error, ending))
        else:
            patched.setattr("engine.datasets.store.open", once(open, error, ending), raising=False)
        with pytest.raises(OutputError, match=error.strerror or str(error)) as raised:
            finish(place)
    assert "damaged" not in str(raised.value)
    assert "cannot write" not in str(raised.value)
    assert done_parts(store) == {0, 1, 2}
    assert {name: read(store, name) for name in store.names("")} == before
    assert finish(place).images == GROUPS.images


def test_nothing_is_deleted_where_a_part_is_damaged_and_a_later_one_cannot_be_read(
    tmp_path: Path, samples_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tmp_path / "set", samples_of)
    (tar,) = (folder / "parts" / "000").glob("000000-*.tar")
    tar.write_bytes(b"")
    failing = once(open, READ_ERRORS[0], r"\.tar")
    with monkeypatch.context() as patched:
        patched.setattr("engine.datasets.store.open", failing, raising=False)
        with pytest.raises(OutputError, match="cannot read"):
            finish(folder)
    assert tar.exists()
    assert done_parts(FolderStore(folder)) == {0, 1, 2}


@pytest.mark.parametrize("left", [0, 40])
def test_damaged_labels_are_written_again(tmp_path: Path, samples_of, left: int) -> None:
    folder = written(tmp_path / "set", samples_of)
    path = folder / "labels.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:left])
    finish(folder)
    assert path.read_bytes() == whole


def test_files_of_other_names_are_no_parts(tmp_path: Path, samples_of) -> None:
    folder = written(tmp_path / "set", samples_of)
    (folder / "parts" / "000" / "²3.parquet").touch()
    assert done_parts(FolderStore(folder)) == {0, 1, 2}
    assert finish(folder).images == GROUPS.images


def test_a_folder_in_the_place_of_a_part_is_named(tmp_path: Path, samples_of) -> None:
    dataset = begin(tmp_path)
    (tmp_path / f"{stem(1)}.parquet").mkdir(parents=True)
    assert dataset.missing() == [0, 1, 2]
    assert not dataset.is_done(1)
    with pytest.raises(
        OutputError, match=r"cannot write .*000001\.parquet: it is a folder; expected"
    ):
        dataset.write(1, samples_of(1))


def alter(path: Path, **changes: object) -> None:
    """Change values of a JSON object, as other software or a person may; None takes one out."""
    found = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: one for name, one in found.items() if one is not None}))


def fewer_groups(folder: Path) -> None:
    alter(folder / "parts.json", groups=2)


def fewer_groups_without_checksum(folder: Path) -> None:
    alter(folder / "parts.json", groups=2, sha256=None)


def another_request(folder: Path) -> None:
    alter(folder / "run.json", request={"images_per_class": 3}, sha256=None)


def as_before_records_had_digests(folder: Path) -> None:
    alter(folder / "parts.json", run=None, sha256=None)
    another_request(folder)


def a_part_twice(folder: Path) -> None:
    rows = {part: folder / f"{stem(part)}.parquet" for part in (1, 2)}
    rows[2].write_bytes(rows[1].read_bytes())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (fewer_groups, r"parts\.json is damaged \(.*another checksum"),
        (fewer_groups_without_checksum, r"1 parts beyond the 2 of its parts\.json, part 2 first"),
        (another_request, r"run\.json is not the record that the parts were begun with"),
        (
            as_before_records_had_digests,
            r"hold 12 images, 0 of them twice, expected 9, .* run\.json",
        ),
        (a_part_twice, r"hold 12 images, 4 of them twice"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_record_that_does_not_fit_the_parts_deletes_none_of_them(
    tmp_path: Path, samples_of, change: Callable[[Path], None], said: str
) -> None:
    folder = written(tmp_path / "set", samples_of)
    finish(folder)
    change(folder)
    before = bytes_of(folder)
    with pytest.raises(OutputError, match=said):
        finish(folder)
    assert bytes_of(folder) == before


def begin_another(place: Path) -> SharedDataset:
    """The run of another seed."""
    return SharedDataset(
        place, {"request": {"seed": 1}, "models": {}}, LABELS, DIVISION, KIND, mixed=True
    )


def test_a_lost_record_is_written_again_by_the_same_run_alone(tmp_path: Path, samples_of) -> None:
    folder = written(tmp_path / "set", samples_of)
    whole = bytes_of(folder)
    (folder / "run.json").unlink()
    with pytest.raises(OutputError, match=r"no run\.json, expected .* generate` again with the"):
        finish(folder)
    with pytest.raises(OutputError, match=r"no run\.json, and parts.json does not say that"):
        begin_another(folder)
    assert not (folder / "run.json").exists()
    begin(folder)
    assert bytes_of(folder) == whole


def test_a_lost_division_is_written_again_by_the_same_run_on_such_a_machine(
    tmp_path: Path, samples_of, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path / "set", samples_of)
    whole = bytes_of(folder)
    finish(folder)
    (folder / "parts.json").unlink()
    said = r"has parts and no parts\.json, expected .* generate` again"
    with pytest.raises(OutputError, match=said):
        finish(folder)
    with pytest.raises(OutputError, match=said):
        list(read_dataset(folder))
    with pytest.raises(OutputError, match="holds a data set in parts"):
        open_dataset(folder, MADE, LABELS)
    with pytest.raises(OutputError, match="seed is 0 there and 1 here"):
        begin_another(folder)
    with pytest.raises(OutputError, match="a worker of another kind made them"):
        begin(folder, OTHER_KIND)
    assert not (folder / "parts.json").exists()
    begin(folder)
    assert bytes_of(folder)["parts.json"] == whole["parts.json"]
    assert finish(folder).images == GROUPS.images


def test_processes_may_know_the_models_by_other_names(tmp_path: Path) -> None:
    """One may write run.json, and another parts.json."""
    store = FolderStore(tmp_path)
    for name in ("/here/net", "/there/net"):
        models = {"classifier": {"name": name, "fingerprint": "0123"}}
        SharedDataset(tmp_path, MADE | {"models": models}, LABELS, DIVISION, KIND)
        if name == "/here/net":  # as if it had come no further
            store.remove("parts.json")
            store.remove(f"kinds/{KIND['canary']}.json")
    record = read_record(store, read_division(store).run)
    assert record.made["models"]["classifier"]["name"] == "/here/net"


def test_a_folder_of_images_may_have_a_class_of_that_name(tmp_path: Path) -> None:
    for label in ("parts", "wholes"):
        (tmp_path / label).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / label / "0.png")
    assert open_images(tmp_path).labels() == ["parts", "wholes"]


def test_a_record_of_other_settings_is_not_taken_for_that_of_the_parts(
    tmp_path: Path, samples_of
) -> None:
    folder = written(tmp_path / "set", samples_of)
    other = begin_another(tmp_path / "other")
    (folder / "run.json").write_bytes(read(other.store, "run.json"))
    with pytest.raises(OutputError, match="not the record that the parts were begun with"):
        finish(folder)


@pytest.mark.parametrize("size", [0, 30, 100])
def test_a_division_that_is_cut_off_is_damaged_and_no_other_version(
    tmp_path: Path, samples_of, size: int
) -> None:
    folder = written(tmp_path / "set", samples_of)
    path = folder / "parts.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    for call in (finish, begin):
        with pytest.raises(DamagedError, match=r"parts\.json is damaged .* put a copy back"):
            call(folder)
    path.unlink()
    begin(tmp_path / "else")  # as the message says
    path.write_bytes((tmp_path / "else" / "parts.json").read_bytes())
    assert finish(folder).images == GROUPS.images
    assert path.read_bytes() == whole


@pytest.mark.parametrize("name", ["parts.json", "run.json"])
def test_a_record_that_may_not_be_read_or_is_gone_is_named(
    tmp_path: Path, samples_of, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = written(tmp_path / "set", samples_of)

    def refused(path: Path, mode: str) -> Any:
        if path.name == name:
            raise PermissionError(errno.EACCES, "Permission denied")
        return open(path, mode)

    with monkeypatch.context() as patched:
        patched.setattr("engine.datasets.store.open", refused, raising=False)
        with pytest.raises(
            OutputError, match=rf"cannot read .*{name}: Permission denied; expected"
        ):
            finish(folder)
    (folder / name).unlink()
    with pytest.raises(OutputError, match=f"{name}.*expected"):
        finish(folder)


def test_a_pipe_is_written_into_and_stays(tmp_path: Path) -> None:
    """As a device is: a file would take the place of /dev/null."""
    os.mkfifo(tmp_path / "pipe")
    read: list[bytes] = []
    reader = Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_whole(tmp_path / "pipe", b"content")
    reader.join()
    assert read == [b"content"]
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.usefixtures("in_memory")
def test_a_temporary_folder_without_room_is_named(
    tmp_path: Path, samples_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"memory://{tmp_path.name}"
    written(url, samples_of)
    full = partial(open, "/dev/full", "wb")
    monkeypatch.setattr("engine.datasets.store.NamedTemporaryFile", full)
    with pytest.raises(OutputError, match=rf"cannot write {gettempdir()}: No space left .* room"):
        finish(url)


@pytest.mark.parametrize("damage", [damage_tar, truncate_tar, remove_tar, flip_rows])
def test_who_reads_a_damaged_part_gets_no_image_of_it_and_what_to_run(
    tmp_path: Path, samples_of, damage: Callable[[Path], None]
) -> None:
    folder = written(tmp_path / "set", samples_of)
    finish(folder)
    damage(folder)
    images = read_dataset(folder)
    sound = [row.key for _, row in islice(images, len(samples_of(0)))]
    assert sound == [sample.key for sample in samples_of(0)]
    with pytest.raises(DamagedError, match=r"run `ddis finish`, .* then `ddis generate`") as raised:
        next(images)
    assert "delete" not in str(raised.value)
    assert main(["export", str(folder), "--out", str(tmp_path / "out"), "--quiet"]) == 2
    assert not list((tmp_path / "out").glob("*.tar"))


def test_an_image_that_is_none_is_named_with_what_makes_it_again(
    tmp_path: Path, samples_of, make_sample
) -> None:
    folder = written(tmp_path / "parts", samples_of)
    of_part, row = next(read_dataset(folder))
    flat = tmp_path / "flat"
    with open_dataset(flat, MADE, LABELS) as writer:
        writer.add(make_sample(0, 0, "dog"))
        writer.finish({})
    ((of_folder, _),) = read_dataset(flat)
    of_folder.write_bytes(of_folder.read_bytes()[:200])
    with pytest.raises(DamagedError, match="delete it and run `ddis generate`"):
        load_sample(of_folder, row)
    with pytest.raises(OutputError, match="delete it and run `ddis generate`"):
        dataset_overview(flat)
    of_folder.unlink()
    with pytest.raises(OutputError, match=r"is missing, .* run `ddis generate`"):
        load_sample(of_folder, row)
    damage_tar(folder)  # after its checksum was compared
    pieces = [PieceOfFile(of_part.store, of_part.name, 0, 100), of_part]
    with pytest.raises(DamagedError, match="run `ddis finish`") as raised:
        load_sample(pieces[0], row)
    assert "delete" not in str(raised.value)


def test_a_manifest_knows_when_its_bytes_or_rows_are_others(tmp_path: Path, samples_of) -> None:
    folder = written(tmp_path / "set", samples_of)
    finish(folder)
    path = folder / "manifest.parquet"
    whole = path.read_bytes()

    def found() -> pa.Table:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            kept = file.metadata.metadata[KEY]
            return pa.Table.from_batches(checked(file.iter_batches(), kept))

    rows, kept = found(), pq.read_metadata(path).metadata[KEY]
    with pytest.raises(ValueError, match="another checksum"):
        [*checked(rows.slice(1).to_batches(), kept)]
    noticed = 0
    for place in range(4, len(whole) - 8 - int.from_bytes(whole[-8:-4], "little"), 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            assert found() == rows
        except (OSError, ValueError):
            noticed += 1
    assert noticed > 100


def test_what_sizes_alone_do_not_find_is_named_where_it_is_seen(tmp_path: Path, samples_of) -> None:
    folder = written(tmp_path / "set", samples_of)
    damage_tar(folder)
    with pytest.raises(OutputError, match=r"tar at \d+ cannot be read as a picture.*`ddis finish`"):
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
