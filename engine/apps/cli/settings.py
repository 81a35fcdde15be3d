"""From words to a command's settings: defaults, then the configuration file, then presets, then flags."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from engine.apps.cli.command import Command
from engine.apps.cli.config import Found, overlaid, read_config
from engine.apps.cli.manual import REQUIRED, show_help, value_at
from engine.apps.cli.options import Option, in_flags, options_of
from engine.apps.cli.parsing import typed
from engine.errors import ConfigError
from engine.request import METHODS
from engine.settings.plain import from_plain, nearest, to_plain

MAY_BE_EMPTY = "negative_prompt"
"""The option whose empty text says something."""


@dataclass(frozen=True)
class Understood:
    """A command with its settings. given, explicit, record: see `Call`. options: those of its method."""

    command: Command
    options: tuple[Option, ...]
    given: frozenset[str]
    explicit: Mapping[str, Any]
    record: Mapping[str, Any] | None

    def flagged(self, text: str) -> str:
        """A text with flags in place of the fields that it names."""
        words = [word for word in _leaves(self.explicit) if isinstance(word, str | Path)]
        return in_flags(text, self.options, {str(Path(word)) for word in words})


def understand(
    name: str, words: Sequence[str], commands: Mapping[str, type[Command]]
) -> Understood | None:
    """The command that words ask for; None where they ask for help, which is then printed.

    commands: all there are, by their names. Raises ConfigError, which names flags, for anything that makes no sense.
    """
    command, prog = commands[name], f"ddis {name}"
    typed_values = typed(command, words, prog)
    for option, value in typed_values.items():
        given = value if isinstance(value, list) else [value]
        if "" in given and not option.path.endswith(MAY_BE_EMPTY):
            otherwise = "" if option.path in needed_paths(command) else ", or leave the option out"
            raise ConfigError(
                f"{option.spelt} is empty, expected {option.help}: write it{otherwise}."
            )
    flags = {option.path: value for option, value in typed_values.items()}
    file = command.settings_file(flags)
    found = Found({}) if file is None else read_config(file, commands)
    part = _part_of(command, name, found.sections)
    method = _method(command, flags, part)
    if not (flags.get("help") or flags.get("help_all")):
        _check_method(command, typed_values, method)
    options = tuple(option for option in options_of(command) if option.suits(method))
    try:
        presets = command.preset_values(flags, method)
        explicit = overlaid(overlaid(part, presets), _nested(flags))
        values = overlaid(_defaults(command, method), explicit)
        if flags.get("help") or flags.get("help_all"):
            show_help(command, _with_required(command, values), method, prog, "help_all" in flags)
            return None
        if not values.get("print_config"):
            _check_needed(command, values, options)
        instance = from_plain(command, _filled(command, values))
    except ConfigError as error:
        raise ConfigError(in_flags(str(error), options)) from error
    return Understood(instance, options, frozenset(flags), explicit, found.record)


def _part_of(command: type[Command], name: str, sections: Mapping[str, Any]) -> dict[str, Any]:
    """What a command takes of a configuration file."""
    own = {entry.name for entry in fields(command) if is_dataclass(entry.type)}
    return {key: value for key, value in sections.items() if key in own} | {
        **sections.get(name, {})
    }


def _method(command: type[Command], flags: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    """The method of a run, by its flag, its configuration file or its command."""
    named = part.get("request", {}).get("method", {})
    there = named.get("name") if isinstance(named, Mapping) else named
    method = flags.get("request.method.name", there or command.methods[0])
    if method not in command.methods:
        known = ", ".join(map(repr, command.methods))
        place = "--method" if "request.method.name" in flags else "request.method.name"
        raise ConfigError(
            f"{place} is {method!r}, expected {'one of ' * (len(command.methods) > 1)}{known}: this command has no "
            f"other. Choose a method that it has.{nearest(str(method), command.methods)}"
        )
    return str(method)


def _check_method(command: type[Command], given: Mapping[Option, Any], method: str) -> None:
    """Raise ConfigError where an option was given that this method does not read."""
    wrong = [option for option in given if not option.suits(method)]
    if not wrong:
        return
    others = set(command.methods).intersection(*(option.methods or () for option in wrong))
    flags = ", ".join(sorted(option.spelt for option in wrong))
    them = "it" if len(wrong) == 1 else "them"
    other = f", or choose --method {' or '.join(sorted(others))}" if others else ""
    raise ConfigError(
        f"{flags} came with --method {method}, expected that method's own options: leave {them} out{other}."
    )


def _defaults(command: type[Command], method: str) -> dict[str, Any]:
    """The plain values of a command's sections, by default, with those of a method."""
    values: dict[str, Any] = {}
    for entry in fields(command):
        if entry.default_factory is not MISSING:
            values[entry.name] = to_plain(entry.default_factory())
        elif entry.default is not MISSING:
            values[entry.name] = to_plain(entry.default)
    if "request" in values:
        values["request"]["method"] = to_plain(METHODS[method]())
    return values


def _nested(flags: Mapping[str, Any]) -> dict[str, Any]:
    """{'a.b': 1} as {'a': {'b': 1}}."""
    values: dict[str, Any] = {}
    for path, value in flags.items():
        *sections, name = path.split(".")
        inside = values
        for section in sections:
            inside = inside.setdefault(section, {})
        inside[name] = value
    return values


def _leaves(values: Any) -> list[Any]:
    """The single values in nested dictionaries and lists."""
    if isinstance(values, Mapping):
        values = list(values.values())
    if isinstance(values, list | tuple):
        return [leaf for value in values for leaf in _leaves(value)]
    return [values]


def needed_paths(command: type[Command]) -> list[str]:
    """Paths that must have a value."""
    without = [entry for entry in fields(command) if entry.default is MISSING]
    own = [entry.name for entry in without if entry.default_factory is MISSING]
    return [*command.needs, *own]


def _check_needed(
    command: type[Command], values: Mapping[str, Any], options: Sequence[Option]
) -> None:
    """Raise ConfigError where a value is missing that has no default."""
    by_path = {option.path: option for option in options}
    missing = [by_path[path] for path in needed_paths(command) if not value_at(values, path)]
    if missing:
        names = " and ".join(option.spelt for option in missing)
        one = len(missing) == 1
        wanted = "; ".join(
            option.help if one else f"for {option.spelt} {option.help}" for option in missing
        )
        raise ConfigError(
            f"{names} {'is' if one else 'are'} missing, expected {wanted}: give {'it' if one else 'them'}."
        )


def _with_required(command: type[Command], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values for help, with a mark where one must be given and is not."""
    marks = {path: REQUIRED for path in needed_paths(command) if not value_at(values, path)}
    return overlaid(values, _nested(marks))


def _filled(command: type[Command], values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Values that make a command even where some that it needs are missing, so that its settings can be printed."""
    if not values.get("print_config"):
        return values
    lacking = [path for path in needed_paths(command) if "." not in path and path not in values]
    hints = {entry.name: entry.type for entry in fields(command)}
    return {**values, **{name: [] if hints[name] not in (str, Path) else "" for name in lacking}}
