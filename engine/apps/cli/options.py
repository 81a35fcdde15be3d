"""The options of a command, read off its fields: one rule for their flags, and messages that name them."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import Field, dataclass, fields, is_dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatch
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from engine.apps.cli.command import WITH_PRIOR, Command
from engine.request import METHODS

PREFIXED = {"alignment", "learning", "lora", "polish", *METHODS}
"""Sections whose options carry their name: `--alignment.scale`."""
MOST_NAMED = 3
"""Other commands that have an option which one has not."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option.

    path: of its field, from the command: request.method.sampling.steps. flag: without the dashes. choices: the values
    that it may have, any if empty. methods: those that have it, None for all.
    """

    path: str
    flag: str
    kind: Any
    help: str
    metavar: str = ""
    choices: tuple[str, ...] = ()
    positional: bool = False
    local: bool = False
    methods: frozenset[str] | None = None

    @property
    def section(self) -> str:
        """The name of the settings that it belongs to, '' for the command's own."""
        return self.path.rpartition(".")[0].rpartition(".")[2]

    @property
    def spelt(self) -> str:
        """How messages name it."""
        return self.metavar if self.positional else f"--{self.flag}"

    def suits(self, method: str) -> bool:
        """Whether a run by this method reads it."""
        return self.methods is None or method in self.methods


def options_of(command: type[Command]) -> tuple[Option, ...]:
    """All options of a command, of all its methods: its own first, then what all commands have. Flags are unique."""
    shared = {entry.name for entry in fields(Command)}
    found: dict[str, Option] = {}
    for option in sorted(_walk(command, command, ""), key=lambda one: one.path in shared):
        known = found.get(option.flag)
        if known is not None:
            assert known.path == option.path, f"{known.path} and {option.path} share a flag"
            assert known.methods is not None
            assert option.methods is not None
            option = replace(option, methods=known.methods | option.methods)
        found[option.flag] = option
    return tuple(found.values())


def flag_of(path: str, method: str | None = None) -> str:
    """The flag of a field: its name, behind that of its section where this is PREFIXED.

    A source is called what it is a source of: `request.classifier.source` is `--classifier`.
    """
    *sections, name = path.replace("_", "-").split(".")
    section = sections[-1] if sections else ""
    if name == "source":
        return section
    if section == "student":
        return f"student-{name}"
    if section == "method":
        section = "" if name == "tokens" else method or ""
    return f"{section}.{name}" if section in PREFIXED else name


def in_flags(message: str, options: Sequence[Option], given: Collection[str] = ()) -> str:
    """A message with flags in place of the fields that it names: the one that it begins with, and `quoted` ones.

    A name that several sections have is the classifier's, unless a student has it too: other settings are named with
    their section. given: words of the user, such as a folder's name, which begin a message as they are.
    """
    by_path = {option.path: option.spelt for option in options}
    by_name: dict[str, set[str]] = {}
    of_classifier, of_student = dict[str, set[str]](), set[str]()
    for option in options:
        *_, section, last = ["", *option.path.split(".")]
        for name in (last, f"{section}.{last}", option.flag.replace("-", "_")):
            by_name.setdefault(name, set()).add(option.spelt)
            if option.path.startswith("request.classifier."):
                of_classifier[name] = {option.spelt}
            if option.path.startswith("request.student."):
                of_student.add(name)
    by_name |= {name: flags for name, flags in of_classifier.items() if name not in of_student}

    def flag(found: "re.Match[str]") -> str:
        known = by_name.get(found[1], {found[0]})
        return by_path.get(found[1], next(iter(known)) if len(known) == 1 else found[0])

    if message.partition(" ")[0] not in given:
        beginning = r"^([a-z_]\w*(?:\.\w+)*)(?:\[\d+\])?(?= (?:is|are|came|has) )"
        message = re.sub(beginning, flag, message)
    return re.sub(r"`([a-z_]\w*(?:\.\w+)*)`", flag, message)


def unknown_option(word: str, command: type[Command], prog: str) -> str:
    """What is wrong with a word that begins with a dash and is no option of a command."""
    flag = word.partition("=")[0].lstrip("-").replace("_", "-")
    known = [option.flag for option in options_of(command) if not option.positional]
    for option in options_of(command):
        if option.positional and option.flag == flag:
            return (
                f"{word} is no option of {prog}, expected the {flag} without a flag: write `{prog} {option.metavar} "
                "...`."
            )
    plainly = flag.removeprefix("no-")
    if plainly in PREFIXED and any(one.startswith(f"{plainly}.") for one in known):
        return (
            f"--{flag} is no option since version 0.2, expected --preset paper for settings as published, or --method "
            "plain for the prior without guidance: write one of these."
        )
    for one in known:
        if one != plainly and one.replace(".", "-") == plainly:
            now = one if plainly == flag else ".no-".join(one.rsplit(".", 1))
            return f"--{flag} is no option since version 0.2, expected --{now}: write it so."
    if having := [name for name, other in _others(command) if flag in _flags(other)]:
        have = "has" if len(having) == 1 else "have"
        named = ", ".join(f"`ddis {name}`" for name in having[:MOST_NAMED])
        more = f" and {len(having) - MOST_NAMED} more" if len(having) > MOST_NAMED else ""
        return (
            f"{word} is no option of {prog}, expected one that `{prog} --help-all` shows: leave it out; {named}{more} "
            f"{have} it."
        )
    meant = _nearest_option(plainly, options_of(command))
    near = f" Did you mean '--{meant}'?" if meant else ""
    return f"{word} is no option of {prog}, expected one that `{prog} --help-all` shows: correct it.{near}"


def _others(command: type[Command]) -> Iterator[tuple[str, type[Command]]]:
    """The other commands by their names."""
    from engine.apps.cli.registry import COMMANDS  # which imports commands, and these this module

    return ((name, other) for name, other in COMMANDS.items() if other is not command)


def _flags(command: type[Command]) -> set[str]:
    return {option.flag for option in options_of(command) if not option.positional}


def _nearest_option(flag: str, options: Sequence[Option]) -> str:
    """The known flag nearest to an unknown one: that of the field it names, else by its letters; '' if none is near."""
    named = [option for option in options if not option.positional]
    field = flag.replace("-", "_")
    for option in named:
        if "." in field and f".{option.path}".endswith(f".{field}"):
            return option.flag
    flags = [option.flag for option in named]
    ends = {one.rpartition(".")[2]: one for one in reversed(flags)}
    whole = dict(zip(flags, flags, strict=True))
    for known, cutoff in ((whole, 0.85), (ends, 0.85), (whole, 0.75)):
        for found in get_close_matches(flag, known, 1, cutoff):
            return known[found]
    return next((one for one in flags if one.startswith(flag)), "")


def _walk(
    command: type[Command], kind: Any, path: str, method: str | None = None, of: str = ""
) -> Iterator[Option]:
    """The options of one dataclass: of a command, of its sections, and of each method's settings.

    of: the model that the section is of, where not every method uses that one.
    """
    hints = get_type_hints(kind)
    for entry in fields(kind):
        place = f"{path}.{entry.name}" if path else entry.name
        kinds = get_args(hints[entry.name]) or (hints[entry.name],)
        settings: list[Any] = [one for one in kinds if is_dataclass(one)]
        model = entry.metadata.get("of") or of
        if len(settings) > 1:
            if _offered(command, f"{place}.name"):
                yield _choice_of_method(command, f"{place}.name")
            for one in settings:
                if one.name in command.methods:
                    yield from _walk(command, one, place, one.name)
        elif settings:
            yield from _walk(command, settings[0], place, method, model)
        elif _offered(command, place):
            yield _option(command, entry, hints[entry.name], place, method, model)


def _offered(command: type[Command], path: str) -> bool:
    if any(fnmatch(path, pattern[1:]) for pattern in command.options if pattern.startswith("!")):
        return False
    return "." not in path or any(fnmatch(path, pattern) for pattern in command.options)


def _choice_of_method(command: type[Command], path: str) -> Option:
    return Option(
        path=path,
        flag="method",
        kind=str,
        help=_methods_help(command.methods),
        choices=command.methods,
    )


def _methods_help(methods: Sequence[str]) -> str:
    without = [name for name in methods if name not in WITH_PRIOR]
    text = "how images are made: with guidance (ddis), by the prior alone (plain)"
    return f"{text}, or without a prior: {', '.join(without)}" if without else text


def _option(
    command: type[Command], entry: "Field[Any]", kind: Any, path: str, method: str | None, of: str
) -> Option:
    methods = None if method is None else frozenset([method])
    if of:
        methods = frozenset(name for name, one in METHODS.items() if of in one.uses)
    flag = command.names.get(path) or entry.metadata.get("flag") or flag_of(path, method)
    return Option(
        path=path,
        flag=flag,
        kind=kind,
        help=command.helps.get(path) or entry.metadata["help"],
        metavar=entry.metadata.get("metavar", ""),
        choices=_choices(kind),
        positional=entry.metadata.get("positional", False),
        local=entry.metadata.get("local", False),
        methods=methods,
    )


def _choices(kind: Any) -> tuple[str, ...]:
    """The values that a field may have, also where it may have none; () where there are no few."""
    if get_origin(kind) in (Union, UnionType):
        return next((found for one in get_args(kind) if (found := _choices(one))), ())
    return get_args(kind) if get_origin(kind) is Literal else ()
