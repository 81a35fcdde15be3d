"""What `ddis COMMAND --help` shows."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from inspect import cleandoc
from pathlib import Path
from shlex import quote
from types import NoneType
from typing import Annotated, Any, Literal, TypedDict, get_args

from engine.apps.cli.command import Command
from engine.apps.cli.options import Option, in_flags, options_of
from engine.apps.cli.parsing import several

METAVARS = {int: "N", float: "X", str: "TEXT", bool: "", Path: "PATH"}
REQUIRED = object()
"""In place of the value of an option that must be given."""
OUTPUT = "output"
"""The box of the options that all commands have."""
TITLES = {
    "reads": "classifier input",
    "call": "prior pipeline",
    "request": "data set",
    "execution": "machine",
    "cluster": "Ray cluster",
    "alignment": "guidance",
    "polish": "polishing",
    "student": "student network",
    "learning": "token learning",
}
"""What the box of a section is called, where its name in configuration files does not say."""


def show_help(
    command: type[Command], values: Mapping[str, Any], method: str, prog: str, everything: bool
) -> None:
    """Print the options of a command with their defaults; without `everything`, those that most people need."""
    import tyro

    suited = [option for option in options_of(command) if option.suits(method)]
    options = [replace(option, help=in_flags(option.help, suited)) for option in suited]
    text = cleandoc(command.__doc__ or "")
    if not everything and command.common:
        shown = [*command.common, "config", "print-config", "json", "quiet"]
        text += f"\n\nThese are the options that most people need. All of them: {prog} --help-all"
        options = [option for option in options if option.positional or option.flag in shown]
        options.sort(key=lambda one: -1 if one.positional else shown.index(one.flag))
    options = [option for option in options if option.flag != "help"]
    kind, switches = _boxed(command, options, values, in_boxes=everything)
    with suppress(SystemExit):
        tyro.cli(kind, prog=prog, description=text, args=["--help"], default=switches)


def _boxed(
    command: type[Command],
    options: Sequence[Option],
    values: Mapping[str, Any],
    in_boxes: bool,
) -> tuple[Any, dict[str, Any]]:
    """The type that tyro prints help of, and its defaults.

    in_boxes: each section in a box of its own. Switches alone have a default: tyro names the flag that changes it.
    """
    from tyro.conf import arg

    shared = {entry.name for entry in fields(Command)}
    kinds: dict[str, Any] = {}
    boxes: dict[str, dict[str, Any]] = {}
    switches: dict[str, Any] = {}
    for number, option in enumerate(options):
        room = "" if not in_boxes else OUTPUT if option.path in shared else option.section
        box = boxes.setdefault(room, {}) if room else kinds
        box[f"option{number}"] = _shown(option, value_at(values, option.path))
        if _is_switch(option):
            inside = switches.setdefault(room, {}) if room else switches
            inside[f"option{number}"] = False
    for room, box in boxes.items():
        kinds[room] = Annotated[TypedDict(room, box, total=False), arg(name=TITLES.get(room, room))]  # type: ignore[operator]
    return TypedDict(command.__name__, kinds, total=False), switches  # type: ignore[operator]


def _shown(option: Option, value: Any) -> Any:
    """The type under which tyro shows an option, with its value by default."""
    from tyro.conf import FlagCreatePairsOff, Positional, arg

    if value is REQUIRED:
        hint = "(required)"
    elif value in (None, "", [], ()) or _is_switch(option):
        hint = ""
    else:
        hint = f"(default: {_in_words(value)})"
    kind: Any = list if several(option.kind) else str
    if option.choices:
        kind = Literal[option.choices]
    metavar = option.metavar or (None if option.choices else METAVARS[_plain(option.kind)])
    metavar = f"{metavar} ..." if several(option.kind) else metavar
    about: dict[str, Any] = {"help": option.help, "help_behavior_hint": hint}
    if option.positional:
        shown = metavar if value is REQUIRED else f"[{metavar}]"
        return Positional[Annotated[kind, arg(metavar=shown, **about)]]
    about |= {"name": option.flag, "prefix_name": False}
    if option.kind is not bool:
        return Annotated[kind, arg(metavar=metavar, **about)]
    kind = Annotated[bool, arg(**about)]
    return FlagCreatePairsOff[kind] if _is_switch(option) else kind


def _is_switch(option: Option) -> bool:
    return option.kind is bool and option.local


def _plain(kind: Any) -> Any:
    """The type of a single value of a field."""
    inner = [one for one in get_args(kind) if one not in (NoneType, ...)]
    return _plain(inner[0]) if inner else kind


def _in_words(value: Any) -> str:
    """A value as it would be typed."""
    words = [str(one) for one in value] if isinstance(value, (list, tuple)) else [str(value)]
    return " ".join(quote(word) for word in words)


def value_at(values: Mapping[str, Any], path: str) -> Any:
    """The value of nested plain values at a path, None where there is none."""
    found: Any = values
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
