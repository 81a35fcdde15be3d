"""Words of a command line as values, by tyro: it splits them, prints help, and writes completion scripts.

tyro sees a TypedDict of texts, so that it gives back what was typed and nothing else; what a value may be is checked
once, by `engine.settings.plain`, wherever it comes from.
"""

import threading
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypedDict, Union, get_args, get_origin

from engine.apps.cli.command import Command
from engine.apps.cli.options import Option, options_of, unknown_option
from engine.errors import ConfigError

_ALONE = threading.Lock()
"""tyro's caches are of one thread; the studio asks from several."""


def typed(command: type[Command], words: Sequence[str], prog: str) -> dict[Option, Any]:
    """What was given on a command line: plain values by their options, not yet checked.

    Raises ConfigError for an option that there is not, one without its value, and a word too many.
    """
    import tyro

    options = options_of(command)
    keys = {f"option{number}": option for number, option in enumerate(options)}
    try:
        with _ALONE:
            found, unknown = tyro.cli(
                words_of(command, keys),
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
            f"{word!r} is a word too many, expected an option before it: take it out, or write its option; "
            f"`{prog} --help-all` shows them."
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


def words_of(command: type[Command], keys: Mapping[str, Option], *, complete: bool = False) -> Any:
    """The type under which tyro splits words off. complete: with choices and help, as completion scripts want it."""
    kinds = {key: _typed_as(option, complete) for key, option in keys.items()}
    return TypedDict(command.__name__, kinds, total=False)  # type: ignore[operator]


def several(kind: Any) -> bool:
    """Whether an option of this type takes any number of words."""
    return any(get_origin(one) is tuple for one in (kind, *get_args(kind)))


def _typed_as(option: Option, complete: bool) -> Any:
    from tyro.conf import Positional, arg

    kind: Any = list if several(option.kind) else bool if option.kind is bool else str
    if complete and option.choices:
        kind = Literal[option.choices]
    text = option.help if complete else None
    if option.positional:
        return Positional[Annotated[kind, arg(help=text)]]
    aliases = ("-h",) if option.flag == "help" else None
    return Annotated[kind, arg(name=option.flag, prefix_name=False, aliases=aliases, help=text)]


def _valueless(options: Sequence[Option], words: Sequence[str], prog: str) -> str:
    """What is wrong with words that tyro could not split: an option without its value."""
    takes = {f"--{option.flag}": option for option in options if option.kind is not bool}
    for word, following in zip_longest(words, words[1:], fillvalue="--"):
        option = takes.get(word.replace("_", "-"))
        if option is not None and following.startswith("--"):
            return (
                f"{word} came without a value, expected one behind it ({option.help}): write it, as "
                f"`{prog} --help-all` shows."
            )
    return f"{prog} cannot read {' '.join(words)!r}, expected options and their values: see `{prog} --help-all`."
