"""How a config's field is declared and checked."""

from dataclasses import field, fields
from typing import Any, Literal, get_args, get_type_hints

from engine.errors import ConfigError


def setting(default: Any, help: str, metavar: str = "", *, of: str = "", flag: str = "") -> Any:
    """A config field with its one default and what the command line shows: its text, and a word for its value.

    of: the model that it is a setting of, where not every method uses that one (`MethodSettings.uses`). flag: the
    option's name, where it differs from the rule.
    """
    marks = {"help": help, "metavar": metavar, "of": of, "flag": flag}
    return field(default=default, metadata=marks)


def check_choices(config: Any) -> None:
    """Raise ConfigError where a `Literal` field of a config holds another value."""
    hints = get_type_hints(type(config))
    for entry in fields(config):
        choices = get_args(hints[entry.name])
        if (
            getattr(hints[entry.name], "__origin__", None) is Literal
            and getattr(config, entry.name) not in choices
        ):
            raise ConfigError(
                f"{entry.name} is {getattr(config, entry.name)!r}, "
                f"expected one of {', '.join(map(repr, choices))}: choose one of these."
            )


def check_positive(config: Any, *names: str) -> None:
    """Raise ConfigError where one of these fields, whole numbers all, is below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ConfigError(
                f"{name} is {getattr(config, name)}, expected at least 1: give a positive whole number."
            )


def check_at_most(config: Any, **limits: tuple[int, str]) -> None:
    """Raise ConfigError where one of these fields is above its limit. limits: by name, the limit and what it is of."""
    for name, (limit, what) in limits.items():
        if getattr(config, name) > limit:
            raise ConfigError(
                f"{name} is {getattr(config, name)}, expected at most {limit}: {what}. Lower it."
            )


def check_not_negative(config: Any, **meanings: str) -> None:
    """Raise ConfigError where one of these fields is negative or not finite. meanings: by name, what 0 does."""
    for name, meaning in meanings.items():
        if not 0 <= getattr(config, name) < float("inf"):
            raise ConfigError(
                f"{name} is {getattr(config, name)}, expected a finite number >= 0: {meaning}. Correct it."
            )
