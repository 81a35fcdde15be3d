"""`run.json`: what a data set is made with (fixed when it is begun) and what was measured (written at its end).

It holds "format", "config", "versions" and "measured".
"""

import json
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from engine.errors import OutputError
from engine.files import explained, write_whole

RUN = "run.json"
FORMAT = "ddis-dataset/1"
PACKAGES = ("torch", "diffusers", "transformers", "ddis")
SELECTED_FROM = "selected_from"
"""Where the config of a selection has that of the folder it was made from."""
MOST_SHOWN = 5
_ABSENT = object()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that an image may depend on. Imports none of them."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def write_run(folder: Path, config: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
    """Write `run.json`, whole. `config` and `measured` hold what JSON can hold; `measured` is {} until the end.

    The versions are those of the first write: where a later one finds others, they go under `measured`.
    """
    now = versions()
    begun_with = read_run(folder)["versions"] if (folder / RUN).exists() else now
    if begun_with != now:
        measured = {**measured, "versions_at_the_end": now}
    record = {"format": FORMAT, "config": config, "versions": begun_with, "measured": measured}
    write_whole(
        folder / RUN,
        json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n",
    )


def read_run(folder: Path) -> dict[str, Any]:
    """The record of a folder that `write_run` wrote. Raises OutputError for any other."""
    path = folder / RUN
    with explained(path):
        content = path.read_bytes()
    try:
        record = json.loads(content)
    except ValueError:
        record = None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise OutputError(
            f"{path} is not a record of format {FORMAT!r}, expected a data set that this version wrote: "
            "choose another folder, or move this one away."
        )
    return record


def made_with(folder: Path) -> dict[str, Any]:
    """The config that the images of a data set were made with: behind any number of selections, the first one's."""
    config = read_run(folder)["config"]
    while SELECTED_FROM in config:
        config = config[SELECTED_FROM]
    return config


def check_same_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise OutputError, naming fields that differ, where `folder` was begun with another config."""
    there = read_run(folder)["config"]
    if (SELECTED_FROM in there) != (SELECTED_FROM in config):
        what = (
            "images selected from another folder"
            if SELECTED_FROM in there
            else "generated images, no selection"
        )
        raise OutputError(
            f"{folder} holds {what}, expected a new folder or a run of the same kind and settings to continue: choose "
            "another folder."
        )
    differing = differences(there, config)
    if differing:
        raise OutputError(
            f"{folder} holds a run with other settings: {'; '.join(differing)}. "
            "Expected the same settings to continue it: use them, or choose another folder."
        )


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """A sentence for each setting that differs between a request that was kept and one that is made, by its name.

    Settings that both have come first; of more than MOST_SHOWN, the rest is one sentence that counts them.
    """
    old, new = dict(_leaves(there)), dict(_leaves(json.loads(json.dumps(here))))
    names = [
        name for name in old.keys() | new.keys() if old.get(name, _ABSENT) != new.get(name, _ABSENT)
    ]
    found = [
        f"{name} is {_shown(old.get(name, _ABSENT))} there and {_shown(new.get(name, _ABSENT))} here"
        for name in sorted(names, key=lambda name: (not (name in old and name in new), name))
    ]
    more = len(found) - MOST_SHOWN
    return found if more <= 0 else [*found[:MOST_SHOWN], f"and {more} more"]


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """('alignment.scale', 0.25) for each value that holds no others; an empty list or object is one."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    if not items:
        yield name, value
    for key, inner in items:
        yield from _leaves(inner, f"{name}.{key}" if name else str(key))


def _shown(value: Any) -> str:
    return "not set" if value is _ABSENT else json.dumps(value, ensure_ascii=False)
