"""`run.json`: what a data set is made with (fixed when it is begun) and what was measured (written at its end).

    {"format": "ddis-run/2", "request": {...}, "models": {...}, "labels": {...}, "versions": {...}, "measured": {...},
     "sha256": "..."}

What lies between the format and the labels says how the images came about, and is called `made` here: a request with
the identities of its models; {"selected_from": made, "selection": {...}}; or {"together": [made, ...]} of several runs
that were put together. `engine.facts` reads it. The checksum is of all else; records of earlier versions have none,
and those of version 0.1 are read as well.
"""

import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from pathlib import Path
from typing import Any

from engine.errors import DamagedError, OutputError
from engine.facts import (
    RUN_FORMAT,
    RUN_FORMAT_0_1,
    SELECTED_FROM,
    facts_of,
    first_run,
    with_names_of,
)
from engine.files import read_explained, write_whole
from engine.urls import check_local

RUN = "run.json"
CHECKSUM = "sha256"
PACKAGES = ("torch", "diffusers", "transformers", "ddis")
MOST_SHOWN = 5
MOST_WHOLE = 20
"""Items of a list that is shown whole."""
_ABSENT = object()


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a run.json says. made: as in the module's docstring, or what version 0.1 called its config."""

    made: Mapping[str, Any]
    labels: Mapping[str, str]
    versions: Mapping[str, str]
    measured: Mapping[str, Any]

    @property
    def facts(self) -> dict[str, Any]:
        """All that the images depend on, in one form whatever version wrote the record."""
        return facts_of(self.made)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that an image may depend on. Imports none of them."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def write_run(
    folder: Path, made: Mapping[str, Any], labels: Mapping[str, str], measured: Mapping[str, Any]
) -> None:
    """Write `run.json`, whole. `made` and `measured` hold what JSON can hold; `measured` is {} until the end.

    The versions are those of the first write: where a later one finds others, they go under `measured`.
    """
    begun_with = read_run(folder).versions if (folder / RUN).exists() else versions()
    write_whole(folder / RUN, run_bytes(made, labels, measured, begun_with))


def run_bytes(
    made: Mapping[str, Any],
    labels: Mapping[str, str],
    measured: Mapping[str, Any],
    begun_with: Mapping[str, str] | None = None,
) -> bytes:
    """The content of a run.json. begun_with: the versions of its first write; None if this is it."""
    now = versions()
    if begun_with is not None and begun_with != now:
        measured = {**measured, "versions_at_the_end": now}
    record = {
        "format": RUN_FORMAT,
        **made,
        "labels": labels,
        "versions": begun_with or now,
        "measured": measured,
    }
    record[CHECKSUM] = checksum(record)
    return json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def checksum(record: Mapping[str, Any]) -> str:
    """SHA-256 of a record without its checksum, as hex digits."""
    rest = {key: value for key, value in record.items() if key != CHECKSUM}
    return sha256(json.dumps(json.loads(json.dumps(rest)), sort_keys=True).encode()).hexdigest()


def run_digest(made: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """The checksum of all that the images of a run depend on, whatever was measured."""
    return sha256(json.dumps([made, labels], sort_keys=True).encode()).hexdigest()


def read_run(place: Path) -> RunRecord:
    """The record of a folder, or of a run.json. Raises OutputError for what `write_run` did not write."""
    check_local(place)
    path = place / RUN if place.is_dir() else place
    with read_explained(path):
        content = path.read_bytes()
    return parsed_run(content, path)


def parsed_run(content: bytes, where: object) -> RunRecord:
    """The record in the content of a run.json. where: it lies, for the OutputError that other content raises."""
    try:
        record = json.loads(content)
        check_whole(record, where)
        record.pop(CHECKSUM, None)
        form = record.pop("format")
        if form == RUN_FORMAT_0_1:
            record |= record.pop("config")
        if form in (RUN_FORMAT, RUN_FORMAT_0_1):
            return RunRecord(
                labels=record.pop("labels", {}),
                versions=record.pop("versions"),
                measured=record.pop("measured"),
                made=record,
            )
    except (ValueError, KeyError, TypeError, AttributeError):
        form = None
    raise OutputError(
        f"{where} is {'no record' if form is None else f'a record of format {form!r}'}, expected one of format "
        f"{RUN_FORMAT!r} or {RUN_FORMAT_0_1!r}: choose another folder, move this one away, or install the version of "
        "ddis that wrote it."
    )


def check_whole(record: Mapping[str, Any], where: object) -> None:
    """Raise DamagedError where a record is not as it was written. where: it lies."""
    if record.get(CHECKSUM) not in (None, checksum(record)):
        raise DamagedError(
            f"{where} is damaged (it has another checksum than it was written with), expected the record as it was "
            f"written: put a copy back; if it was changed on purpose, take {CHECKSUM!r} out of it."
        )


def made_with(folder: Path) -> dict[str, Any]:
    """The facts that the images of a data set depend on: behind any number of selections, the first run's."""
    return first_run(read_run(folder).facts)


def check_same_run(folder: Path, made: Mapping[str, Any], labels: Mapping[str, str]) -> None:
    """Raise OutputError, naming what differs, where `folder` was begun as another run."""
    check_record(str(folder), read_run(folder), made, labels)


def check_record(
    where: str, there: RunRecord, made: Mapping[str, Any], labels: Mapping[str, str]
) -> None:
    """Raise OutputError, naming what differs, where a record is of another run. where: what it is the record of."""
    check_selection(where, there, SELECTED_FROM in made)
    here = with_names_of(there.facts, facts_of(made))
    differing = differences({**there.facts, "labels": there.labels}, {**here, "labels": labels})
    if differing:
        raise OutputError(
            f"{where} holds a run with other settings: {'; '.join(differing)}. "
            "Expected the same settings to continue it: use them, or choose another folder."
        )


def check_selection(where: Path | str, there: RunRecord, selection: bool) -> None:
    """Raise OutputError where a folder was begun as a selection and is to hold generated images, or the reverse."""
    if (SELECTED_FROM in there.made) != selection:
        what = (
            "images selected from another folder"
            if SELECTED_FROM in there.made
            else "generated images, no selection"
        )
        raise OutputError(
            f"{where} holds {what}, expected a new folder or a run of the same kind and settings to continue: choose "
            "another folder."
        )


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """A sentence for each setting that differs between a request that was kept and one that is made, by its name.

    Settings that both have come first; of more than MOST_SHOWN, the rest is one sentence that counts them.
    """
    old, new = dict(_leaves(there)), dict(_leaves(json.loads(json.dumps(here))))
    names = [
        name for name in old.keys() | new.keys() if old.get(name, _ABSENT) != new.get(name, _ABSENT)
    ]
    found: list[str] = []
    for name in sorted(names, key=lambda name: (not (name in old and name in new), name)):
        found += _differing(name, old.get(name, _ABSENT), new.get(name, _ABSENT))
    more = len(found) - MOST_SHOWN
    return found if more <= 0 else [*found[:MOST_SHOWN], f"and {more} more"]


def _differing(name: str, there: Any, here: Any) -> Iterator[str]:
    """A sentence on a value that differs; of long lists, one for each item that does."""
    lists = [value for value in (there, here) if isinstance(value, list)]
    if len(lists) == 2 and max(map(len, lists)) > MOST_WHOLE:
        pairs = enumerate(zip_longest(there, here, fillvalue=_ABSENT))
        for number, (old, new) in pairs:
            if old != new:
                yield from _differing(f"{name}.{number}", old, new)
        return
    are = "are" if lists and name.endswith("s") else "is"
    yield f"{name} {are} {_shown(there)} there and {_shown(here)} here"


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """('alignment.scale', 0.25) for each value that holds no others, or a list of such."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list) and any(isinstance(one, dict | list) for one in value):
        items = enumerate(value)
    if not items:
        yield name, value
    for key, inner in items:
        yield from _leaves(inner, f"{name}.{key}" if name else str(key))


def _shown(value: Any) -> str:
    if isinstance(value, list) and value:
        shown = ", ".join(map(str, value[:MOST_WHOLE]))
        return shown + (f" and {len(value) - MOST_WHOLE} more" if len(value) > MOST_WHOLE else "")
    return "not set" if value is _ABSENT else json.dumps(value, ensure_ascii=False)
