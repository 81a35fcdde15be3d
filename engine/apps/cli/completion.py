"""Completion scripts for shells, which tyro writes of all commands and their options."""

import io
from contextlib import redirect_stdout, suppress

from engine.apps.cli.options import options_of
from engine.apps.cli.parsing import words_of
from engine.apps.cli.registry import COMMANDS


def script(shell: str) -> str:
    """The script that a shell reads to complete `ddis`."""
    from tyro.extras import SubcommandApp

    apps = {"": SubcommandApp()}
    for name, command in COMMANDS.items():
        room, _, inner = name.rpartition(" ")
        if room not in apps:
            apps[room] = SubcommandApp()
            apps[""].command(apps[room], name=room)
        about = (command.__doc__ or "").split("\n")[0]
        keys = {f"option{number}": option for number, option in enumerate(options_of(command))}
        kind = words_of(command, keys, complete=True)
        apps[room].command(kind, name=inner, help=about)
    printed = io.StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        apps[""].cli(prog="ddis", args=["--tyro-print-completion", shell])
    return printed.getvalue()
