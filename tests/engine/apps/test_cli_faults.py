"""Every command under the same faults: interrupted, unread, out of memory or disk, not allowed to write, in use."""

import errno
import json
import os
import re
import sys
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from engine import files
from engine.apps import demo
from engine.apps.cli import main
from engine.apps.cli.options import options_of
from engine.apps.cli.registry import COMMANDS
from engine.apps.cli.settings import needed_paths
from engine.classifiers import Preprocess, load_classifier, save_classifier
from engine.datasets.dataset import open_dataset
from engine.datasets.finish import finish
from engine.datasets.parts import Division
from engine.datasets.shared import SharedDataset
from engine.downstream.sources import own_folder
from engine.evaluation.images import open_images
from engine.files import whole_file
from engine.locks import locked_file, locked_folder
from engine.settings import Sampling
from engine.types import ImageKey, Sample

LABELS = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
Call = Callable[..., int]


def least_words(name: str) -> list[str]:
    """The least that a command can be called with."""
    options = {option.path: option for option in options_of(COMMANDS[name])}
    needed = [options[path] for path in needed_paths(COMMANDS[name])]
    words = []
    for option in sorted(needed, key=lambda option: not option.positional):
        value = "out" + ".safetensors" * (option.metavar == "FILE")
        value = "arch:resnet18" if "classifier" in option.path else value
        words += [value] if option.positional else [f"--{option.flag}", value]
    return words


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Call:
    """call(name, work, ...): the exit code of a command whose work is `work`."""

    def called(name: str, work: Callable[[], Any], *more: str) -> int:
        kind = COMMANDS[name]
        monkeypatch.setattr(kind, "module", None)
        monkeypatch.setattr(kind, "run", lambda self, call: work())
        return main([*name.split(), *least_words(name), *more])

    return called


def raises(error: BaseException) -> Callable[[], Any]:
    def work() -> Any:
        raise error

    return work


@pytest.mark.parametrize("name", COMMANDS)
def test_an_interrupted_command_says_in_one_line_how_to_go_on(
    call: Call, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(name, raises(KeyboardInterrupt())) == 130
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"interrupted: {COMMANDS[name].interrupted}\n"
    assert re.search("same command|nothing", printed.err)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_memory_that_runs_out_anywhere_is_one_line(
    call: Call, name: str, error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(name, raises(error)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: memory ran out (")
    assert said.endswith(f"then {COMMANDS[name].interrupted}\n")
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_an_object_that_nobody_reads_ends_quietly(
    call: Call, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        assert call(name, lambda: {"word": "word" * 99_999}, "--json") == 141
    assert capsys.readouterr().err == ""


# What really writes, on a data set of two classes.


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory,
    shared_resnet: torch.nn.Module,
    small_prior_folder: Path,
) -> Path:
    """A classifier, a prior, a data set folder of eight images, the same in parts, finished, and another data set."""
    place = tmp_path_factory.mktemp("faults")
    (place / "prior").symlink_to(small_prior_folder)
    reads = Preprocess.squash(16)
    save_classifier(
        place / "net", shared_resnet, architecture="resnet8", labels=LABELS, preprocess=reads
    )
    labels = {0: "dog", 4: "horse"}
    rng = torch.Generator().manual_seed(0)
    samples = [
        Sample(
            key=ImageKey(number, index),
            label=label,
            seed=0,
            prompt=f"a {label}",
            token="",
            image=torch.rand(3, 16, 16, generator=rng),
            logits=torch.randn(len(LABELS), generator=rng),
            l_bn=1.0,
            confidence=0.5,
            group="",
        )
        for index in range(4)
        for number, label in labels.items()
    ]
    made = {"request": {"seed": 0}, "models": {}}
    others = [replace(sample, image=sample.image.square()) for sample in samples]
    for name, images in (("set", samples), ("other", others)):
        with open_dataset(place / name, made, labels) as writer:
            for sample in images:
                writer.add(sample)
            writer.finish({})
    parts = SharedDataset(place / "parts", made, labels, Division(2, 1), {"canary": "0" * 12})
    for part in range(2):
        parts.write(part, samples[4 * part : 4 * part + 4])
    finish(place / "parts")
    return place


READING = (
    *("report", "quantise", "select", "export", "fit", "distill", "prune"),
    *("statistics", "evaluate --out", "evaluate --save-statistics"),
)
"""Of `writing`, what reads a data set."""


def writing(place: Path, out: Path) -> dict[str, list[str]]:
    """The words of each command that writes, into `out` or a file of that name."""
    net, images, file = str(place / "net"), str(place / "set"), f"{out}.safetensors"
    classifier = ["--classifier", net, "--device", "cpu"]
    drawing = [*classifier, "--prior", str(place / "prior"), "--classes", "dog"]
    features = ["--features", f"classifier:{net}", "--device", "cpu"]
    other = str(place / "other")
    compared = [*features, "--reference", other, "--prd-clusters", "2", "--resamples", "5"]
    short = ["--seeds", "1", "--epochs", "1", "--no-plain"]
    return {
        "generate": [
            *("generate", *drawing, "--out", str(out)),
            *("--images-per-class", "2", "--steps", "2", "--batch", "1"),
        ],
        "learn-tokens": [
            *("learn-tokens", *drawing, "--out", file, "--steps", "2"),
            *("--learning.epochs", "2", "--learning.images-per-epoch", "1"),
        ],
        "learn-lora": [
            *("learn-lora", *drawing, "--out", file, "--steps", "2"),
            *("--images-per-class", "1", "--lora.epochs", "1"),
        ],
        "tune": [
            *("tune", *drawing, "--out", f"{out}.json", "--steps", "2"),
            *("--images-per-class", "1", "--scales", "0.1", "0.5"),
        ],
        "report": ["report", images, "--out", f"{out}.html"],
        "quantise": ["quantise", images, *classifier, "--out", str(out), "--no-plain"],
        "select": ["select", images, "--out", str(out), "--by", "energy"],
        "export": ["export", images, "--out", str(out), "--images-per-shard", "4"],
        "fit": ["fit", images, "--out", str(out), "--epochs", "1", "--device", "cpu"],
        "distill": [
            *("distill", images, *classifier, "--out", str(out), *short),
            *("--student", "resnet8"),
        ],
        "prune": ["prune", images, *classifier, "--out", str(out), *short],
        "statistics": ["statistics", net, images, "--out", file, "--device", "cpu"],
        "evaluate --out": ["evaluate", images, *compared, "--out", file],
        "evaluate --save-statistics": ["evaluate", images, *features, "--save-statistics", file],
        "finish": ["finish", str(place / "parts")],
        "demo": ["demo", "--out", str(out), "--images-per-class", "1"],
        "export-onnx": [
            *("export-onnx", *classifier, "--prior", str(place / "prior"), "--method", "plain"),
            *("--out", str(out)),
        ],
    }


@pytest.mark.parametrize("name", READING)
def test_a_data_set_behind_a_url_is_refused_without_a_word_on_damage(
    place: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "s3://bucket/set" if word == str(place / "set") else word
        for word in writing(place, tmp_path / "out")[name]
    ]
    assert main([*words, "--quiet"]) == 2
    said = the_error(capsys.readouterr().err)
    assert said == (
        "error: s3://bucket/set is a URL, expected a folder: copy the data set to a disk, and name it there."
    )
    assert not list(tmp_path.iterdir())


HEAVY = ("demo", "export-onnx")
TRAINING = ("distill", "prune", "quantise")
SLOW = ("generate", "learn-tokens", "learn-lora", "tune", *TRAINING, *HEAVY)
MEASURING = (*TRAINING, "demo")
"""What they write holds seconds."""
WRITING = tuple(writing(Path("place"), Path("out")))
QUICK_FIRST = [
    pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW))
    for name in WRITING
    if name != "export-onnx"  # takes long; tests/engine/onnx cuts an export
]
HEAVY_SLOW = [pytest.param(name, marks=[pytest.mark.slow] * (name in HEAVY)) for name in WRITING]
LOCKING = ("quantise", "select", "export", "fit", "distill", "prune")
LOCKING_TOO = [*LOCKING, pytest.param("demo", marks=pytest.mark.slow)]
TEMPORARY = f"{files.TEMPORARY}*"


MEASURED = ("statistics", "evaluate --save-statistics", "evaluate --out")
"""Commands whose result is sums over the images, which round by their order."""


def of_any_order(name: str, out: Path, printed: dict[str, Any]) -> Any:
    """Of what a command wrote and printed, what does not depend on the order of the images."""
    match name:
        case "select":
            return {path.relative_to(out): path.read_bytes() for path in out.rglob("*.png")}
        case "export":
            images = {}
            for shard in out.glob("*.tar"):
                with tarfile.open(shard) as tar:
                    pngs = [one for one in tar.getmembers() if one.name.endswith(".png")]
                    images |= {one.name: tar.extractfile(one).read() for one in pngs}
            return images
        case "report":
            page = Path(f"{out}.html").read_text()
            return sorted(re.findall(r"data:image/webp;base64,[\w+/=]+", page))
        case "statistics" | "evaluate --save-statistics":
            tensors = load_file(f"{out}.safetensors")
            tensors.pop("features", None)  # a row for each image
            return {key: value.tolist() for key, value in tensors.items()}
        case "evaluate --out":
            return {
                key: metric and metric["value"]
                for key, metric in printed["metrics"].items()
                if not key.startswith("prd")  # its clusters begin with some of the images
            }
        case "fit":
            return printed["images"]
        case "quantise":
            return [path.read_bytes() for path in sorted(out.glob("folder/*/int8.onnx"))]
        case _:
            return printed["measured_images"], printed["rows"]["folder"]["images"]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in TRAINING)) for name in READING],
)
def test_a_data_set_in_parts_gives_what_the_same_images_in_a_folder_give(
    place: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for layout in ("set", "parts"):
        out = tmp_path / layout
        words = writing(place, out)[name]
        words = [str(place / layout) if word == str(place / "set") else word for word in words]
        assert main([*words, "--json"]) == 0
        found.append(of_any_order(name, out, json.loads(capsys.readouterr().out)))
    first, other = found
    assert first
    if name in MEASURED:  # sums in another order
        assert first.keys() == other.keys()
        for key, value in first.items():
            values = (np.array(one, dtype=float) for one in (value, other[key]))
            np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-4, err_msg=key)
    else:
        assert first == other


def test_images_in_parts_have_the_labels_of_those_in_a_folder(place: Path) -> None:
    found = []
    for layout in ("set", "parts"):
        images = open_images(place / layout)
        pixels = torch.cat([*images.batches(3)])
        labels = own_folder(load_classifier(place / "net"), place / layout).classes.tolist()
        assert [LABELS[number] for number in labels] == images.labels()
        one_by_one = (pixel.numpy().tobytes() for pixel in pixels)
        found.append(dict(zip(one_by_one, labels, strict=True)))
    assert len(found[0]) == 8
    assert found[0] == found[1]


@pytest.fixture(autouse=True)
def short_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo has no option for its steps."""
    monkeypatch.setattr(demo, "Sampling", lambda: Sampling(steps=2))


@pytest.mark.parametrize("name", LOCKING_TOO)
def test_a_folder_in_use_is_refused_with_whose_it_is(
    place: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    words = [*writing(place, out)[name], "--quiet"]
    with locked_folder(out):
        assert main(words) == 2
        assert f"{out} is in use by process {os.getpid()} on " in capsys.readouterr().err
    assert main(words) == 0


@pytest.mark.parametrize("name", ["generate", "learn-tokens", "learn-lora"])
def test_what_takes_longest_says_so_before_it_begins(
    place: Path,
    tmp_path: Path,
    small_prior_folder: Path,
    name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / ("out" if name == "generate" else "out.safetensors")
    models = ["--classifier", str(place / "net"), "--prior", str(small_prior_folder)]
    held: AbstractContextManager[None] = locked_file(out)
    if name == "generate":
        out.mkdir()
        held = locked_folder(out)
    with held:
        assert main([name, *models, "--device", "cpu", "--out", str(out), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert f"{out} is in use by process {os.getpid()} on " in said
    assert "wait until it ends, stop it, or choose another place" in said


def test_two_that_finish_one_data_set_both_do(place: Path) -> None:
    before = contents(place / "parts")
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(finish, [place / "parts"] * 4))
    assert [one.images for one in found] == [8] * 4
    assert contents(place / "parts") == before


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW))
        for name in ("statistics", "evaluate --out", "report", "tune", "export-onnx")
    ],
)
def test_two_commands_that_write_one_file_both_end_well(
    place: Path, tmp_path: Path, name: str
) -> None:
    words = [*writing(place, tmp_path / "out")[name], "--quiet"]
    processes = [get_context("fork").Process(target=ends_with, args=(words,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    twice = contents(tmp_path)
    assert not [path for path in twice if Path(path).name.startswith(files.TEMPORARY)]
    assert main(words) == 0
    assert contents(tmp_path) == twice


def ends_with(words: list[str]) -> None:
    """End this process as the command does."""
    os._exit(main(words))


def test_two_writers_of_one_file_both_write_it_whole(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    with whole_file(file) as slow:
        slow.write(b"first" * 1000)
        with whole_file(file) as quick:
            quick.write(b"second")
        assert file.read_bytes() == b"second"
    assert file.read_bytes() == b"first" * 1000
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """refuse(n): from now on, the n-th time that a file or folder is to be put on the disk, there is no room for it.

    Gives a list that grows with each time.
    """
    put_on_disk = os.fsync
    state: dict[str, Any] = {"at": -1, "times": []}

    def fsync(descriptor: int) -> None:
        state["times"].append(descriptor)
        if len(state["times"]) == state["at"]:
            raise OSError(errno.ENOSPC, "No space left on device")
        put_on_disk(descriptor)

    def start(at: int) -> list[int]:
        state["at"], state["times"] = at, []
        return state["times"]

    monkeypatch.setattr(os, "fsync", fsync)
    return start


@pytest.mark.parametrize("name", QUICK_FIRST)
def test_a_disk_that_is_full_at_any_write_is_one_line_and_the_same_command_ends_well(
    place: Path, tmp_path: Path, name: str, refuse, capsys: pytest.CaptureFixture[str]
) -> None:
    calm = tmp_path / "calm"
    writes = refuse(-1)
    assert main([*writing(place, calm)[name], "--quiet"]) == 0
    every = range(1, len(writes) + 1)
    assert every
    ends = [*every[:1], *every[-1:]]
    some = ends if name in HEAVY else [*every[:3], every[len(every) // 2], *every[-2:]]
    few = every if len(every) <= 6 and name not in HEAVY else some
    for at in few:
        out = tmp_path / str(at)
        words = [*writing(place, out)[name], "--quiet"]
        refuse(at)
        capsys.readouterr()
        code, said = main(words), capsys.readouterr().err
        if "warning: no report: " in said:  # the data set is whole without it
            assert code == 0
        else:
            assert code == 2, f"write {at} of {len(writes)}"
            said = the_error(said)
        assert "expected room on the disk: free some and call again" in said
        looked_at = place / "parts" if name == "finish" else tmp_path
        assert not [path for path in looked_at.rglob(TEMPORARY) if path.is_file()]
        refuse(-1)
        assert main(words) == 0
        if name not in MEASURING:
            kinds = ("", ".safetensors", ".html", ".json")
            suffix = next((kind for kind in kinds if Path(f"{calm}{kind}").exists()), "")
            assert contents(Path(f"{calm}{suffix}")) == contents(Path(f"{out}{suffix}"))


@pytest.mark.parametrize("name", HEAVY_SLOW)
def test_a_target_that_may_not_be_written_is_one_line(
    place: Path,
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EROFS, "Read-only file system")

    before = contents(place / "parts")
    monkeypatch.setattr("engine.files.open", refused, raising=False)
    monkeypatch.setattr(Path, "mkdir", refused)
    assert main([*writing(place, tmp_path / "out")[name], "--quiet"]) == 2
    said = the_error(capsys.readouterr().err)
    assert "Read-only file system; expected a folder that this user may write to" in said
    assert list(tmp_path.iterdir()) == []
    assert contents(place / "parts") == before  # where `finish` writes


def test_events_that_no_longer_fit_on_the_disk_are_one_warning_and_the_run_goes_on(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = [*writing(place, out)["export"], "--events", "/dev/full", "--quiet"]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert said.startswith("warning: cannot write /dev/full: No space left on device; the run goes")
    assert said.count("warning: ") == 1
    assert list(out.glob("*.tar"))


def the_error(said: str) -> str:
    """The one line that is an error and the last; before it there may be warnings."""
    *before, last = said.splitlines()
    assert last.startswith("error: "), said
    assert all(line.startswith("warning: ") for line in before), said
    return last


def contents(path: Path) -> dict[str, bytes]:
    """The bytes of a file or of every file in a folder; of a run's what was not measured."""
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    named = {str(p.relative_to(path)): p.read_bytes() for p in found}
    named.pop("report.html", None)
    for name in named:
        if name == "run.json":
            named[name] = json.dumps(
                json.loads(named[name]) | {"measured": None, "sha256": None}
            ).encode()
    return named
