"""Convert settings to and from plain values, which JSON and YAML can hold, with errors that name the field.

Supports the types that settings use: bool, int, float, str, Path, Literal, tuples, optional values, nested dataclasses,
and unions of dataclasses, distinguished by the value of their class attribute `name`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from engine.errors import ConfigError

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Return dataclasses as dicts, tuples as lists. A dataclass that is one of a union has its `name` as first key."""
    if is_dataclass(value) and not isinstance(value, type):
        names = [*(["name"] if _is_named(type(value)) else []), *(f.name for f in fields(value))]
        return {name: to_plain(getattr(value, name)) for name in names}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def from_plain(kind: type[T], value: Any, where: str = "") -> T:
    """Return the value of type `kind` that `to_plain` wrote; missing fields get their defaults.

    where: the path of the value in its file, for messages: 'method.alignment'. Raises ConfigError for an unknown key,
    with the nearest known name, for a value of the wrong type, and for whatever the settings themselves refuse. Each
    message begins with the path of the field.
    """
    if is_dataclass(kind):
        return _dataclass(kind, value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _union(arguments, value, where)
    if origin is Literal:
        if not any(type(value) is type(choice) and value == choice for choice in arguments):
            _refuse(where, value, f"one of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            _refuse(where, value, "a list")
        return tuple(
            from_plain(arguments[0], item, f"{where}[{n}]") for n, item in enumerate(value)
        )  # type: ignore[return-value]
    return _scalar(kind, value, where)


def nearest(word: str, known: Iterable[str]) -> str:
    """' Did you mean ...?' with the first known word that begins with an unknown one, or the nearest; '' if none is.

    A word may begin with a prefix and a colon, which the unknown one lacks.
    """
    words = list(known)
    found = [one for one in words if one.startswith(word) or one.endswith(f":{word}")]
    found = found or get_close_matches(word, words, 1)
    return f" Did you mean {found[0]!r}?" if found else ""


def _dataclass(kind: type[T], value: Any, where: str) -> T:
    if not isinstance(value, Mapping):
        _refuse(where, value, f"the settings of {kind.__name__}")
    hints = get_type_hints(kind)
    known = [entry.name for entry in fields(kind)]  # type: ignore[arg-type]
    given = {key: item for key, item in value.items() if not (key == "name" and _is_named(kind))}
    for key in given:
        if key not in known:
            place = f"{where}.{key}" if where else str(key)
            raise ConfigError(
                f"{place} is no setting, expected {', '.join(known)}: correct the name.{nearest(str(key), known)}"
            )
    values = {
        key: from_plain(hints[key], item, f"{where}.{key}" if where else key)
        for key, item in given.items()
    }
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}.{error}" if where else str(error)) from error


def _union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and NoneType in kinds:
        return None
    kinds = tuple(kind for kind in kinds if kind is not NoneType)
    if len(kinds) == 1:
        return from_plain(kinds[0], value, where)
    by_name = {kind.name: kind for kind in kinds if _is_named(kind)}
    if by_name:
        name = value.get("name") if isinstance(value, Mapping) else value
        if isinstance(value, Mapping) and "name" not in value:
            raise ConfigError(
                f"{where} has no name, expected one of {', '.join(map(repr, by_name))}: add it as `name`."
            )
        if not isinstance(name, str) or name not in by_name:
            near = nearest(str(name), by_name)
            _refuse(f"{where}.name", name, f"one of {', '.join(map(repr, by_name))}", near)
        return from_plain(by_name[name], value if isinstance(value, Mapping) else {}, where)
    for kind in kinds:
        if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
            return value
    return _refuse(where, value, " or ".join(kind.__name__ for kind in kinds))


def _scalar(kind: type[T], value: Any, where: str) -> T:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return kind(value)  # type: ignore[call-arg]
    if kind is Path and isinstance(value, str):
        return kind(value)  # type: ignore[call-arg]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        words = {
            bool: "true or false",
            int: "a whole number",
            float: "a number",
            str: "a text in quotes",
            Path: "a path in quotes",
        }
        _refuse(where, value, words.get(kind, kind.__name__))
    return value


def _is_named(kind: Any) -> bool:
    return isinstance(getattr(kind, "name", None), str)


def _refuse(where: str, value: Any, expected: str, hint: str = "") -> Any:
    raise ConfigError(
        f"{where or 'the configuration'} is {value!r}, expected {expected}: correct the value.{hint}"
    )
