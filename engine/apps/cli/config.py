"""Configuration files: every section of settings under its name, and each command takes its part.

    format: ddis-config/1
    request: {classifier: {source: "embedded:photo"}, method: {name: ddis, alignment: {scale: 0.3}}}
    learning: {epochs: 4}

YAML or JSON. A run.json is one too: it holds a request, and says which models it was carried out with.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from engine.apps.cli.command import WITH_PRIOR, Command
from engine.datasets.run_record import check_whole
from engine.errors import ConfigError, brief
from engine.facts import RUN_FORMAT, RUN_FORMAT_0_1, SELECTED_FROM, TOGETHER, request_of
from engine.request import FORMAT as REQUEST_FORMAT
from engine.request import METHODS, Request
from engine.settings.plain import from_plain, nearest, to_plain

FORMAT = "ddis-config/1"
RUNS = ("request", SELECTED_FROM, TOGETHER)
"""What a run.json holds one of."""


@dataclass(frozen=True)
class Found:
    """What a file holds.

    sections: their plain values. record: where it is a run.json, "models" with the identities that they must have.
    """

    sections: Mapping[str, Any]
    record: Mapping[str, Any] | None = None


def read_config(path: Path, commands: Mapping[str, type[Command]]) -> Found:
    """The sections of a configuration file, each checked by itself.

    commands: all there are, by their names; what their sections are called is what a file may hold. Raises ConfigError
    for a file that cannot be read, another version's, an unknown name and a value that makes no sense.
    """
    values = _parsed(path)
    form = values.pop("format", FORMAT)
    if form == REQUEST_FORMAT:
        form, values = FORMAT, {"request": values}
    if form == RUN_FORMAT and values.keys().isdisjoint(RUNS):
        raise ConfigError(
            f"{path} has format {form!r} and none of {', '.join(RUNS)}, expected the record of a run: it is damaged; "
            "take another, or write the settings with --print-config."
        )
    if form in (RUN_FORMAT, RUN_FORMAT_0_1):
        check_whole({"format": form, **values}, path)
        try:
            request, models = request_of(values.get("config", values), "the record")
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
        return Found({"request": to_plain(request)}, {"models": models})
    if form != FORMAT:
        raise ConfigError(
            f"{path} has format {form!r}, expected {FORMAT!r} or {RUN_FORMAT!r}: it was written by another version of "
            "ddis. Install that one, or write the file again with --print-config."
        )
    return Found(_checked(path, values, commands))


def sections_of(command: type[Command], name: str) -> dict[str, Any]:
    """The sections of a command by their names, with their types; its own settings are the one that has its name."""
    sections = {entry.name: entry.type for entry in fields(command) if is_dataclass(entry.type)}
    return sections | ({name: command} if _own(command) else {})


def _own(command: type[Command]) -> list[str]:
    """Settings of a command alone."""
    plain = [entry for entry in fields(command) if not is_dataclass(entry.type)]
    return [entry.name for entry in plain if not entry.metadata.get("local")]


def written(instance: Command, name: str) -> str:
    """The settings of a command as YAML that `read_config` takes back."""
    import yaml

    sections = [entry.name for entry in fields(instance) if is_dataclass(entry.type)]
    values = {one: to_plain(getattr(instance, one)) for one in sections}
    own = {one: to_plain(getattr(instance, one)) for one in _own(type(instance))}
    if own:
        values[name] = own
    return yaml.safe_dump(
        {"format": FORMAT, **values}, sort_keys=False, allow_unicode=True, width=100
    )


def overlaid(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested plain values with those of `over` in place of `base`'s.

    Where it names another method than `base`, what both have stays: sampling and tokens of those with a prior.
    """
    name = over.get("name")
    if name in METHODS and base.get("name", name) != name:
        default = to_plain(METHODS[name]())
        both = {base["name"], name} <= {*WITH_PRIOR}
        base = default | {
            key: base[key] for key in default if both and key in base and key != "name"
        }
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        if isinstance(value, Mapping) and isinstance(inner, Mapping):
            value = overlaid(inner, value)
        merged[key] = value
    return merged


def _checked(
    path: Path, values: Mapping[str, Any], commands: Mapping[str, type[Command]]
) -> dict[str, Any]:
    """The sections of a file, if each of them can be read."""
    known: dict[str, Any] = {}
    for name, command in commands.items():
        known |= sections_of(command, name)
    for name, section in values.items():
        if name not in known:
            raise ConfigError(
                f"{path}: {str(name)!r} is no section, expected request, execution or another that --print-config "
                f"shows ({', '.join(sorted(known))}): correct the name.{nearest(str(name), known)}"
            )
        try:
            _try(known[name], section, name)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
    return {
        name: {key: one for key, one in section.items() if key != "format"}
        if known[name] is Request
        else section
        for name, section in values.items()
    }


def _try(kind: Any, section: Any, name: str) -> None:
    """Raise ConfigError where a section cannot be read."""
    if kind is Request:
        Request.from_plain(section, name)
        return
    if not issubclass(kind, Command):
        from_plain(kind, section, name)
        return
    if not isinstance(section, Mapping):
        raise ConfigError(
            f"{name} is {section!r}, expected the settings of ddis {name}: correct it."
        )
    own, hints = _own(kind), get_type_hints(kind)
    for key, value in section.items():
        if key not in own:
            raise ConfigError(
                f"{name}.{key} is no setting, expected {', '.join(own)}: correct the name.{nearest(str(key), own)}"
            )
        from_plain(hints[key], value, f"{name}.{key}")


def _parsed(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON file."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Takes 1e-4 for a number, as YAML 1.2 does."""

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
        [*"-+.0123456789"],
    )
    try:
        text = path.read_text("utf-8")
        is_json = path.suffix == ".json"
        values = json.loads(text) if is_json else yaml.load(text, Loader)
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no {path}, expected a configuration file, as --print-config writes: check the path."
        ) from error
    except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path} cannot be read ({brief(error)}), expected YAML or JSON, as --print-config writes: check the file."
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path} holds no sections, expected some, such as `request:`: write one; --print-config shows a "
            "whole file."
        )
    return values
