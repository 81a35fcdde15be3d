"""The command `ddis`: `ddis COMMAND OPTIONS`. Nothing here imports torch before a command runs."""

from engine.apps.cli.program import main

__all__ = ["main"]
