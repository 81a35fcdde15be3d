"""How a config's field is declared and checked."""

from dataclasses import field, fields
from typing import Any, Literal, get_args, get_type_hints

from engine.errors import ConfigError


def setting(default: Any, help: str, metavar: str = "", *, of: str = "", flag: str = "") -> Any:
    """A config field with its single default, its help text, and a placeholder for its value in the help.

    of: the model that the setting belongs to, if not every method uses that model (`MethodSettings.uses`). flag: the
    option's name, if it does not follow the rule.
    """
    marks = {"help": help, "metavar": metavar, "of": of, "flag": flag}
    return field(default=default, metadata=marks)


def check_choices(config: Any) -> None:
    """Raise ConfigError if a `Literal` field of a config holds a value that is not one of its choices."""
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


def check_whole(config: Any) -> None:
    """Raise ConfigError if a field declared as `int` holds anything else, such as 1.5 or True."""
    hints = get_type_hints(type(config))
    for entry in fields(config):
        value = getattr(config, entry.name)
        if hints[entry.name] is int and (not isinstance(value, int) or isinstance(value, bool)):
            raise ConfigError(f"{entry.name} is {value!r}, expected a whole number: give one.")


def check_positive(config: Any, *names: str) -> None:
    """Raise ConfigError if one of these whole-number fields is below 1, or as `check_whole` does."""
    check_whole(config)
    for name in names:
        if getattr(config, name) < 1:
            raise ConfigError(
                f"{name} is {getattr(config, name)}, expected at least 1: give a positive whole number."
            )


def check_at_most(config: Any, **limits: tuple[int, str]) -> None:
    """Raise ConfigError if one of these fields is above its limit. limits: by name, the limit and the reason for it."""
    for name, (limit, what) in limits.items():
        if getattr(config, name) > limit:
            raise ConfigError(
                f"{name} is {getattr(config, name)}, expected at most {limit}: {what}. Lower it."
            )


def check_not_negative(config: Any, **meanings: str) -> None:
    """Raise ConfigError if one of these fields is negative or not finite, or as `check_whole` does.

    meanings: by name, what 0 does.
    """
    check_whole(config)
    for name, meaning in meanings.items():
        if not 0 <= getattr(config, name) < float("inf"):
            raise ConfigError(
                f"{name} is {getattr(config, name)}, expected a finite number >= 0: {meaning}. Correct it."
            )
