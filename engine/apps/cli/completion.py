"""Completion scripts for shells, which tyro writes of all commands and their options."""

import io
from contextlib import redirect_stdout, suppress
from typing import Annotated, Any, Union

from engine.apps.cli.options import options_of
from engine.apps.cli.parsing import grouped
from engine.apps.cli.registry import COMMANDS


def script(shell: str) -> str:
    """What the shell has to read so that it completes `ddis`."""
    import tyro
    from tyro.conf import subcommand

    kinds: dict[str, list[Any]] = {}
    for name, command in COMMANDS.items():
        room, _, inner = name.rpartition(" ")
        kind, switches = grouped(command, options_of(command), in_boxes=False)
        named = subcommand(inner, default=switches, prefix_name=False)
        kinds.setdefault(room, []).append(Annotated[kind, named])
    commands = kinds.pop("")
    for room, inner_kinds in kinds.items():
        inside = Union[tuple(inner_kinds)] if len(inner_kinds) > 1 else inner_kinds[0]  # noqa: UP007
        commands.append(Annotated[inside, subcommand(room, prefix_name=False)])
    printed = io.StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        tyro.cli(
            Union[tuple(commands)],  # noqa: UP007
            prog="ddis",
            args=["--tyro-print-completion", shell],
        )
    return printed.getvalue()
