"""Stores: a folder, a URL and S3 keep one promise, and a whole run goes through S3, also one that is cut."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from engine.apps.cli import main
from engine.datasets.dataset import read_dataset
from engine.datasets.finish import finish
from engine.datasets.part_reading import read_rows
from engine.datasets.parts import Division, done_parts
from engine.datasets.shared import SharedDataset
from engine.datasets.store import FolderStore, Store, UrlStore, is_url, open_store, read
from engine.errors import ConfigError, OutputError
from engine.events import Events
from engine.files import write_whole
from engine.methods.base import MixedGroups
from engine.runners.share import PartMaker
from engine.types import Sample

LABELS = {0: "dog", 1: "cat"}
GROUPS = MixedGroups(tuple(LABELS), 4, 2)
KIND = {"canary": "0123456789ab", "device": "cpu"}


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An S3 bucket of a server in this process."""
    boto3 = pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        endpoint = f"http://{host}:{port}"
        environment.setenv("AWS_ENDPOINT_URL", endpoint)
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="images")
        yield "s3://images"
    server.stop()


@pytest.fixture(params=["folder", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """A place that nothing was written to."""
    if request.param == "folder":
        return tmp_path / "store"
    name = request.node.name.replace("[", "-").replace("]", "")
    if request.param == "memory":
        request.getfixturevalue("in_memory")
        return f"memory://{name}"
    return f"{request.getfixturevalue('bucket')}/{name}"


@pytest.fixture
def store(place: Path | str) -> Store:
    return open_store(place)


def test_a_file_is_created_once(store: Store) -> None:
    assert store.create("parts/000/a.tar", b"first")
    assert not store.create("parts/000/a.tar", b"second")
    assert read(store, "parts/000/a.tar") == b"first"
    assert read(store, "parts/000/a.tar", 2, 2) == b"rs"
    assert store.size("parts/000/a.tar") == 5
    assert store.names("parts") == ["parts/000/a.tar"]


def test_one_of_many_writers_creates(store: Store) -> None:
    with ThreadPoolExecutor(4) as threads:
        wrote = list(threads.map(lambda n: store.create("run.json", b"%d" % n), range(12)))
    assert sum(wrote) == 1
    assert read(store, "run.json") == b"%d" % wrote.index(True)


def test_what_is_not_there(store: Store) -> None:
    assert store.size("none") is None
    assert store.names("none") == []
    store.remove("none")
    with pytest.raises(FileNotFoundError):
        read(store, "none")


def test_a_writer_replaces_and_appears_whole(store: Store) -> None:
    store.create("manifest.parquet", b"old")
    with store.writer("manifest.parquet") as file:
        file.write(b"new ")
        assert read(store, "manifest.parquet") == b"old"
        file.write(b"content")
    assert read(store, "manifest.parquet") == b"new content"
    with suppress(ZeroDivisionError), store.writer("manifest.parquet") as file:
        file.write(b"half")
        1 / 0  # noqa: B018
    assert read(store, "manifest.parquet") == b"new content"
    store.remove("manifest.parquet")
    assert store.size("manifest.parquet") is None


def test_a_data_set_goes_through_and_is_resumed(
    place: Path | str, make_sample, tmp_path: Path
) -> None:
    def begin() -> SharedDataset:
        made = {"request": {"seed": 0}, "models": {}}
        return SharedDataset(place, made, LABELS, Division.of(len(GROUPS)), KIND)

    def write(dataset: SharedDataset, part: int) -> bool:
        keys = GROUPS[part]
        return dataset.write(
            part, [make_sample(k.class_index, k.index, LABELS[k.class_index]) for k in keys]
        )

    dataset = begin()
    assert write(dataset, 2)
    assert not write(dataset, 2)
    again = begin()
    assert again.missing() == [0, 1, 3]
    with pytest.raises(OutputError, match="lacks 3 of its 4 parts"):
        finish(place)
    for part in again.missing():
        assert write(again, part)
    found = finish(place)
    assert (found.images, found.parts, found.orphans) == (8, 4, 0)
    store = open_store(place)
    assert {"manifest.parquet", "contact_sheet.png", "run.json", "labels.json"} <= {
        *store.names("")
    }
    _tar, table = read_rows(store, 3)
    row = table.to_pylist()[-1]
    assert read(store, row["path"], row["offset"], row["size"]).startswith(b"\x89PNG")
    if isinstance(place, Path):
        assert len(list(read_dataset(place))) == 8


@pytest.mark.slow
def test_a_run_into_s3_that_is_cut_and_resumed_has_the_bytes_of_a_local_one(
    bucket: str,
    classifier_folder: Path,
    small_prior_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def generate(out: str) -> int:
        models = ["--classifier", str(classifier_folder), "--prior", str(small_prior_folder)]
        few = ["--images-per-class", "3", "--classes", "dog", "horse", "--steps", "2"]
        how = ["--batch", "2", "--device", "cpu", "--share", "1/1", "--quiet"]
        return main(["generate", *models, *few, *how, "--out", out])

    url, local, make, made = f"{bucket}/whole-run", tmp_path / "set", PartMaker.make, []

    def cut(maker: PartMaker, part: int, events: Events) -> list[Sample]:
        if made:
            raise KeyboardInterrupt
        made.append(part)
        return make(maker, part, events)

    with monkeypatch.context() as patched:
        patched.setattr(PartMaker, "make", cut)
        assert generate(url) == 130
    assert done_parts(open_store(url)) == {0}
    assert main(["finish", url, "--quiet"]) == 2
    assert generate(url) == 0
    assert generate(str(local)) == 0
    for place in (url, str(local)):
        assert main(["finish", place, "--quiet"]) == 0
    here, there = open_store(local), open_store(url)
    names = sorted(set(here.names("")) - {"report.html"})  # which only folders have
    assert sorted(there.names("")) == names
    assert sum(name.endswith(".tar") for name in names) == 3
    assert [name for name in names if read(here, name) != read(there, name)] == []


@pytest.mark.usefixtures("in_memory")
def test_places_are_told_apart(tmp_path: Path) -> None:
    assert is_url("s3://bucket/set")
    assert not is_url("C:/set")
    assert not is_url(tmp_path)
    assert isinstance(open_store(str(tmp_path)), FolderStore)
    assert isinstance(open_store("memory://x"), UrlStore)


@pytest.mark.parametrize("url", ["nonsense://x", "zip://a::no-such.zip", "dir://x", "github://x"])
def test_a_url_that_cannot_be_opened_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="expected a URL that fsspec knows"):
        open_store(url)


@pytest.mark.parametrize("url", ["memory://x", "simplecache::memory://x", "zip://a::memory://x"])
def test_a_place_that_is_gone_with_the_process_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=f"{url} is in this process's memory.*: name a folder"):
        open_store(url)


@pytest.mark.usefixtures("in_memory")
@pytest.mark.parametrize(
    "error", [ValueError("doesn't appear to support range requests"), NotImplementedError("no")]
)
def test_what_a_protocol_cannot_do_is_explained(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    store = open_store("memory://cannot")

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(type(store.files), "open", refuse)
    with pytest.raises(OutputError, match=f"{error}.*expected a place that can be"):
        read(store, "a")


@pytest.mark.parametrize("protocol", ["file", "local"])
def test_the_url_of_a_folder_is_refused_with_its_path(tmp_path: Path, protocol: str) -> None:
    with pytest.raises(ConfigError, match=f"is the URL of a folder.*name {tmp_path}"):
        open_store(f"{protocol}://{tmp_path}/")
    with pytest.raises(ConfigError, match=f"is the URL of a folder.*name {tmp_path}"):
        open_store(f"simplecache::{protocol}://{tmp_path}/")
    assert list(tmp_path.iterdir()) == []


class ServiceError(Exception):
    """As botocore raises it, and s3fs makes an OSError of it."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


@pytest.mark.usefixtures("in_memory")
@pytest.mark.parametrize(
    ("answers", "wrote"),
    [([412], False), ([409, 409], True), ([409, 412], False), ([409] * 9, None), ([500], None)],
)
def test_a_second_writer_that_a_service_refuses_in_its_words(
    monkeypatch: pytest.MonkeyPatch, answers: list[int], wrote: bool | None
) -> None:
    store = open_store(f"memory://{'-'.join(map(str, answers))}")
    pipe, left, waited = store.files.pipe_file, list(answers), []

    def answer(*arguments: object, **named: object) -> None:
        if left:
            raise OSError(16, "refused") from ServiceError(left.pop(0))
        pipe(*arguments, **named)

    monkeypatch.setattr(type(store.files), "pipe_file", lambda _, *a, **k: answer(*a, **k))
    monkeypatch.setattr(time, "sleep", waited.append)
    if wrote is None:
        with pytest.raises(OutputError, match=r"refused.*credentials"):
            store.create("a", b"1")
    else:
        assert store.create("a", b"1") == wrote
    assert len(waited) == min(answers.count(409), 5)
    assert waited == sorted(waited)


@pytest.mark.usefixtures("in_memory")
def test_a_service_that_refuses_no_second_writer_is_asked_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = open_store("memory://refuses-nothing")
    pipe = store.files.pipe_file

    def overwrite(_: object, path: str, content: bytes, mode: str) -> None:
        pipe(path, content, mode="overwrite")

    monkeypatch.setattr(type(store.files), "pipe_file", overwrite)
    assert store.create("run.json", b"first")
    assert not store.create("run.json", b"second")
    assert read(store, "run.json") == b"first"


@pytest.mark.usefixtures("in_memory")
def test_a_service_that_cannot_be_reached_says_what_to_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = open_store("memory://unreachable")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Access Denied")

    monkeypatch.setattr(type(store.files), "pipe_file", refuse)
    with pytest.raises(OutputError, match=r"Access Denied.*credentials"):
        store.create("a", b"")


@pytest.mark.parametrize("name", ["s3://bucket/set/file.bin", "gs://bucket/file.bin"])
def test_what_is_written_on_a_disk_refuses_a_url(name: str) -> None:
    """`Path` reads s3://bucket as s3:/bucket, which would be a folder here."""
    with pytest.raises(
        OutputError, match=r"(s3|gs)://bucket.* is a URL, expected a path on a disk"
    ):
        write_whole(Path(name), b"content")
    assert not Path("s3:").exists()
    assert not Path("gs:").exists()
