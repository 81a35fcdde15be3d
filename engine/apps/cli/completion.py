"""Completion scripts for shells, which tyro writes of all commands and their options."""

import io
from contextlib import redirect_stdout
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
        kind = grouped(command, options_of(command), in_boxes=False)
        kinds.setdefault(room, []).append(Annotated[kind, subcommand(inner, prefix_name=False)])
    commands = kinds.pop("")
    for room, inner_kinds in kinds.items():
        inside = Union[tuple(inner_kinds)] if len(inner_kinds) > 1 else inner_kinds[0]  # noqa: UP007
        commands.append(Annotated[inside, subcommand(room, prefix_name=False)])
    printed = io.StringIO()
    with redirect_stdout(printed):
        try:
            tyro.cli(
                Union[tuple(commands)],  # type: ignore[arg-type]  # noqa: UP007
                prog="ddis",
                args=["--tyro-print-completion", shell],
            )
        except SystemExit:
            pass
    return printed.getvalue()
