"""Words of a command line as values, by tyro: it splits them, prints help, and writes completion scripts.

tyro sees a TypedDict of texts, so that it gives back what was typed and nothing else; what a value may be is checked
once, by `engine.settings.plain`, wherever it comes from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import zip_longest
from pathlib import Path
from shlex import quote
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypedDict, Union, get_args, get_origin

from engine.apps.cli.command import Command
from engine.apps.cli.options import Option, options_of, unknown_option
from engine.errors import ConfigError

METAVARS = {int: "N", float: "X", str: "TEXT", bool: "", Path: "PATH"}
REQUIRED = object()
"""Stands for the value of an option that must be given."""


def typed(command: type[Command], words: Sequence[str], prog: str) -> dict[Option, Any]:
    """What was given on a command line: plain values by their options, not yet checked.

    Raises ConfigError for an option that there is not, one without its value, and a word too many.
    """
    import tyro

    options = options_of(command)
    keys = {f"option{number}": option for number, option in enumerate(options)}
    kinds = {key: _typed_as(option) for key, option in keys.items()}
    try:
        found, unknown = tyro.cli(
            TypedDict("Words", kinds, total=False),  # type: ignore[operator]
            prog=prog,
            args=list(words),
            return_unknown_args=True,
            add_help=False,
            console_outputs=False,
        )
    except SystemExit as stopped:
        raise ConfigError(_valueless(options, words, prog)) from stopped
    if unknown:
        word = unknown[0]
        if word.startswith("-"):
            raise ConfigError(unknown_option(word, command, prog))
        raise ConfigError(
            f"{word!r} is a word too many, expected an option before it: `{prog} --help` shows how {prog} is called."
        )
    return {keys[key]: read(keys[key].kind, value) for key, value in found.items()}


def read(kind: Any, words: Any) -> Any:
    """The plain value that was typed for a type; as it was typed where it is none, for the settings to refuse."""
    if get_origin(kind) is tuple:
        return [read(get_args(kind)[0], word) for word in words]
    if get_origin(kind) in (Union, UnionType):
        return read(next(one for one in get_args(kind) if one is not NoneType), words)
    if kind not in (int, float):
        return words
    try:
        return kind(words)
    except ValueError:
        return words


def show_help(
    command: type[Command], values: Mapping[str, Any], method: str, prog: str, everything: bool
) -> None:
    """Print the options of a command with their defaults; without `everything`, those that most people need."""
    import tyro

    options = [option for option in options_of(command) if option.suits(method)]
    text = (command.__doc__ or "").strip()
    if not everything and command.common:
        shown = [*command.common, "config", "print-config", "json", "quiet"]
        text += f"\n\nThese are the options that most people need. All of them: {prog} --help-all"
        options = [option for option in options if option.positional or option.flag in shown]
        options.sort(
            key=lambda one: (not one.positional, shown.index(one.flag) if one.flag in shown else 0)
        )
    options = [option for option in options if option.flag != "help"]
    kind, switches = grouped(command, options, values, in_boxes=everything)
    tyro.cli(kind, prog=prog, description=text, args=["--help"], default=switches)


def grouped(
    command: type[Command],
    options: Sequence[Option],
    values: Mapping[str, Any] | None = None,
    in_boxes: bool = True,
) -> tuple[Any, dict[str, Any]]:
    """The type that tyro prints help and completions of, and its defaults.

    in_boxes: each section in a box of its own. Switches alone have a default: tyro names the flag that changes it.
    """
    from tyro.conf import arg

    shared = {entry.name for entry in fields(Command)}
    kinds: dict[str, Any] = {}
    boxes: dict[str, dict[str, Any]] = {}
    switches: dict[str, Any] = {}
    for number, option in enumerate(options):
        room = "" if not in_boxes else "output" if option.path in shared else option.section
        box = boxes.setdefault(room, {}) if room else kinds
        box[f"option{number}"] = _shown(option, _at(values or {}, option.path))
        if _is_switch(option):
            inside = switches.setdefault(room, {}) if room else switches
            inside[f"option{number}"] = False
    for room, box in boxes.items():
        kinds[room] = Annotated[TypedDict(room, box, total=False), arg(name=room)]  # type: ignore[operator]
    return TypedDict(command.__name__, kinds, total=False), switches  # type: ignore[operator]


def _typed_as(option: Option) -> Any:
    """The type under which tyro splits words off for an option."""
    from tyro.conf import Positional, arg

    kind: Any = list if _several(option.kind) else str
    if option.positional:
        return Positional[kind]
    aliases = ("-h",) if option.flag == "help" else None
    kind = bool if option.kind is bool else kind
    return Annotated[kind, arg(name=option.flag, prefix_name=False, aliases=aliases)]


def _shown(option: Option, value: Any) -> Any:
    """The type under which tyro shows an option, with its value by default."""
    from tyro.conf import FlagCreatePairsOff, Positional, arg

    required = option.positional or value is REQUIRED
    if required:
        hint = "(required)"
    elif value is None or _is_switch(option):
        hint = ""
    else:
        hint = f"(default: {_in_words(value)})"
    kind: Any = list if _several(option.kind) else str
    if option.choices:
        kind = Literal[option.choices]
    metavar = option.metavar or (None if option.choices else METAVARS[_plain(option.kind)])
    metavar = f"{metavar} ..." if _several(option.kind) else metavar
    about: dict[str, Any] = {"help": option.help, "help_behavior_hint": hint}
    if option.positional:
        return Positional[Annotated[kind, arg(metavar=metavar, **about)]]
    about |= {"name": option.flag, "prefix_name": False}
    if option.kind is not bool:
        return Annotated[kind, arg(metavar=metavar, **about)]
    kind = Annotated[bool, arg(**about)]
    return FlagCreatePairsOff[kind] if _is_switch(option) else kind


def _is_switch(option: Option) -> bool:
    return option.kind is bool and option.local


def _several(kind: Any) -> bool:
    return any(get_origin(one) is tuple for one in (kind, *get_args(kind)))


def _plain(kind: Any) -> Any:
    """The type of a single value of a field."""
    inner = [one for one in get_args(kind) if one not in (NoneType, ...)]
    return _plain(inner[0]) if inner else kind


def _in_words(value: Any) -> str:
    """A value as it would be typed."""
    words = [str(one) for one in value] if isinstance(value, (list, tuple)) else [str(value)]
    return " ".join(quote(word) for word in words)


def _at(values: Mapping[str, Any], path: str) -> Any:
    """The value of nested plain values at a path, None where there is none."""
    found: Any = values
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _valueless(options: Sequence[Option], words: Sequence[str], prog: str) -> str:
    """What is wrong with words that tyro could not split: an option without its value."""
    takes = {f"--{option.flag}": option for option in options if option.kind is not bool}
    for word, following in zip_longest(words, words[1:], fillvalue="--"):
        option = takes.get(word.replace("_", "-"))
        if option is not None and following.startswith("--"):
            return f"{word} has no value, expected {option.help}: write one behind it, as `{prog} --help-all` shows."
    return f"{prog} cannot read {' '.join(words)!r}, expected options and their values: see `{prog} --help-all`."
