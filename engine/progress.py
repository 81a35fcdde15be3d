"""What a command tells a person on stderr: bars on a terminal alone, lines and tables anywhere, nothing if quiet."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Table


class Progress:
    """What a command tells while it runs. `quiet` silences it; bars need a terminal."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True)

    def say(self, text: str) -> None:
        """One line for a person."""
        if not self.quiet:
            self.console.print(text, highlight=False, soft_wrap=True)

    def table(self, title: str, columns: list[str], rows: list[list[str]]) -> None:
        """A small table for a person."""
        table = Table(title=title, title_justify="left")
        for number, column in enumerate(columns):
            table.add_column(column, justify="left" if number == 0 else "right")
        for row in rows:
            table.add_row(*row)
        if not self.quiet:
            self.console.print(table)

    @contextmanager
    def bar(self, title: str, total: int | None) -> Iterator["Bar"]:
        """A bar of `total` units that a loop advances; None where it is not known."""
        with self.bars() as add:
            yield add(title, total)

    @contextmanager
    def bars(self) -> Iterator["AddBar"]:
        """What adds bars to one display."""
        shown = RichProgress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(), TimeRemainingColumn(),
            console=self.console, disable=self.quiet or not self.console.is_terminal,
        )  # fmt: skip
        with shown:
            yield lambda title, total: Bar(
                shown, shown.add_task(title, total=total, detail="", visible=total != 0)
            )


class Bar:
    """One running bar."""

    def __init__(self, shown: RichProgress, task: TaskID) -> None:
        self._shown = shown
        self._task = task

    def expect(self, total: int) -> None:
        """Say of how many units, where it was not known before; of 0 the bar is not shown."""
        self._shown.update(self._task, total=total, visible=total != 0)

    def advance(self, units: float = 1, **fields: Any) -> None:
        self._shown.update(self._task, advance=units, **fields)


AddBar = Callable[[str, int | None], Bar]
"""(title, total) -> a bar as of `Progress.bar`; of a total of 0 it is not shown."""
