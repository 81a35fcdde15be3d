"""Files with a flipped bit or a missing end: found and named, without effect, or read wrongly."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any, NamedTuple

from engine.classifiers import load_classifier
from engine.datasets.dataset import load_sample, read_dataset
from engine.datasets.finish import finish
from engine.datasets.manifest import read_manifest
from engine.datasets.parts import DIVISION
from engine.datasets.run_record import read_run
from engine.errors import EngineError
from engine.tokens.files import read_tokens
from studies.fault_kinds.trials import Count, Place, ended, files_in, wrongs


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        file: one of them.
        read: (the folder or file) -> what it says, in values that can be compared.
        whole: the folder that is read and may change in reading; None where the file alone is read.
        names: what an error may name, one of them.
    """

    file: Path
    read: Callable[[Path], Any]
    whole: Path | None
    names: tuple[str, ...]


def kinds(place: Place) -> dict[str, Kind]:
    """Every kind of file by the name that a table has."""
    parts, made = place.folder / "parts", place.folder / "made"
    images = place.folder / "set"
    if not made.exists():
        made.mkdir()
        for name in ("learn-tokens", "statistics", "fit"):
            room = made / name
            room.mkdir()
            if ended(place.commands(room)[name]).code:
                raise SystemExit(f"{name} did not end well")
    (tar, *_) = sorted(parts.glob("parts/*/*.tar"))
    rows = tar.with_name(f"{tar.name[:6]}.parquet")
    part = ("part 0", tar.name, rows.name)
    tokens = made / "learn-tokens" / "out.safetensors"
    statistics = made / "statistics" / "out.safetensors"
    fitted = made / "fit" / "out"
    return {
        "images of a part, `finish`": Kind(tar, finished, parts, part),
        "images of a part, other commands": Kind(tar, all_images, parts, part),
        "rows of a part, `finish`": Kind(rows, finished, parts, part),
        "rows of a part, other commands": Kind(rows, all_images, parts, part),
        "parts.json": Kind(parts / "parts.json", finished, parts, ("parts.json",)),
        "run.json of parts": Kind(parts / "run.json", finished, parts, ("run.json",)),
        "run.json of a folder": Kind(images / "run.json", record, images, ("run.json",)),
        "manifest.parquet": Kind(images / "manifest.parquet", manifest, images, ("manifest.",)),
        "tokens": Kind(tokens, table, None, (tokens.name,)),
        "statistics": Kind(statistics, moments, None, (statistics.name,)),
        "weights of a classifier": Kind(
            fitted / "model.safetensors", weights, fitted, ("model.safetensors",)
        ),
    }


def finished(folder: Path) -> Any:
    """What `ddis finish` writes of a data set in parts."""
    finish(folder)
    return {
        name: data
        for name, data in files_in(folder).items()
        if "/" not in name and name != DIVISION
    }


def all_images(folder: Path) -> Any:
    """Every image of a data set with its rows."""
    found = []
    for file, row in read_dataset(folder):
        sample = load_sample(file, row)
        facts = vars(row) | {"logits": row.logits.tolist()}
        found.append((facts, sample.image.numpy().tobytes()))
    return found


def manifest(folder: Path) -> Any:
    return [vars(row) | {"logits": row.logits.tolist()} for row in read_manifest(folder)]


def record(folder: Path) -> Any:
    return read_run(folder)


def table(path: Path) -> Any:
    found = read_tokens(path)
    return {**vars(found), "rows": found.rows.numpy().tobytes()}


def moments(path: Path) -> Any:
    found = load_classifier("embedded:cartoon", statistics=f"file:{path}").statistics
    stored = getattr(found, "stored", ())
    taps = [tap._replace(layer=None) for tap in getattr(found, "taps", ())]
    return [(one.mean.numpy().tobytes(), one.var.numpy().tobytes()) for one in stored], taps


def weights(folder: Path) -> Any:
    return {
        key: value.numpy().tobytes()
        for key, value in load_classifier(folder).network.state_dict().items()
    }


def damaged(
    content: bytes, flips: int, cuts: int, rng: random.Random
) -> Iterator[tuple[str, bytes]]:
    """Contents with one flipped bit each, and some that are cut short."""
    for _ in range(flips):
        place, bit = rng.randrange(len(content)), rng.randrange(8)
        flipped = bytes([content[place] ^ 1 << bit])
        yield f"bit {bit} of byte {place}", content[:place] + flipped + content[place + 1 :]
    for _ in range(cuts):
        length = rng.randrange(len(content))
        yield f"cut to {length} of {len(content)} bytes", content[:length]


def damage(place: Place, name: str, flips: int, cuts: int) -> Count:
    """Read a file of a kind with one damage at a time."""
    kind = kinds(place)[name]
    count = Count(f"{name}: {flips} flipped bits, {cuts} cut short")
    content, whole = kind.file.read_bytes(), kind.whole or kind.file.parent
    copy = place.room() / "copy"
    copytree(whole, copy)
    file = copy / kind.file.relative_to(whole)
    source = file if kind.whole is None else copy
    expected = kind.read(source)
    for what, content_now in damaged(content, flips, cuts, random.Random(name)):
        rmtree(copy)
        copytree(whole, copy)
        file.write_bytes(content_now)
        try:
            read = kind.read(source)
        except EngineError as error:
            named = any(one in str(error) for one in kind.names)
            count.add("found and named", [] if named else [f"{what}: {error}"])
        except Exception as error:  # noqa: BLE001  # one that no user should see is what is counted
            count.add("not explained", [f"{what}: {type(error).__name__}: {error}"])
        else:
            wrong = [] if read == expected else [f"{what}: read otherwise, without a word"]
            count.add("changed nothing", wrong)
    return count


def made_again(place: Place, times: int) -> Count:
    """Damage a part, let `ddis finish` find it, and run the same commands again."""
    name = "generate --share, finish"
    count = Count("a part, found by `finish`, and the same commands again")
    expected, rng = place.undisturbed(name), random.Random(name)
    for number in range(times):
        room = place.room()
        commands = place.commands(room)[name]
        if ended(commands).code:
            raise SystemExit(f"{name} did not end well")
        tars, rows = (sorted(room.glob(f"out/parts/*/*{end}")) for end in (".tar", ".parquet"))
        file = rng.choice(tars if number % 2 else rows)
        ((what, content),) = damaged(file.read_bytes(), 0, 1, rng)
        file.write_bytes(content)
        found = ended(commands[-1:])
        wrong = [] if found.code == 2 and found.is_one_line() else [f"{found.code}, {found.said}"]
        if (again := ended(commands)).code:
            wrong.append(f"again: code {again.code}, {again.said[-2:]}")
        wrong += wrongs(name, room, expected)
        count.add("made again", [f"{file.name}, {what}: {line}" for line in wrong])
    return count
