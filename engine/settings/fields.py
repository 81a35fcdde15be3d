"""How a config's field is declared and checked."""

from dataclasses import field, fields
from typing import Any, Literal, get_args, get_type_hints

from engine.errors import ConfigError


def setting(default: Any, help: str) -> Any:
    """A config field with its one default and the text that the command line shows."""
    return field(default=default, metadata={"help": help})


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
                f"{type(config).__name__}.{entry.name} is {getattr(config, entry.name)!r}, "
                f"expected one of {', '.join(map(repr, choices))}: choose one of these."
            )
