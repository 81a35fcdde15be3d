"""What a command tells a person: bars and remarks on stderr, bars on a terminal alone, and what was asked on stdout."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
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

from engine.events import EpochEnded, Event, Events, Progressed, Started, Stepped


class Progress:
    """What a command tells while it runs. `quiet` hides the bars, `silent` everything."""

    def __init__(self, quiet: bool = False, silent: bool = False) -> None:
        self.quiet = quiet or silent
        self.silent = silent
        self.console = Console(stderr=True)
        self.results = Console()

    def say(self, text: str, result: bool = False) -> None:
        """One line for a person. result: it is what the command was asked for, and goes to stdout."""
        if not self.silent:
            console = self.results if result else self.console
            console.print(text, highlight=False, markup=False, soft_wrap=True)

    def table(
        self, title: str, columns: list[str], rows: list[list[str]], result: bool = False
    ) -> None:
        """A small table for a person under a line that is its title; result: as of `say`."""
        if self.silent:
            return
        self.say(title, result)
        table = Table()
        for number, column in enumerate(columns):
            table.add_column(column, justify="left" if number == 0 else "right")
        for row in rows:
            table.add_row(*map(escape, row))
        (self.results if result else self.console).print(table)

    @contextmanager
    def bar(self, title: str, total: int | None) -> Iterator["Bar"]:
        """A bar of `total` units that a loop advances; None where it is not known."""
        with self.bars() as add:
            yield add(title, total)

    @contextmanager
    def watching(self) -> Iterator[Events]:
        """A stream whose tasks are shown as bars while the block runs."""
        with self.bars() as add:
            yield Events(Watcher(add))

    @contextmanager
    def bars(self) -> Iterator["AddBar"]:
        """What adds bars to one display."""
        shown = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=self.quiet or not self.console.is_terminal,
        )
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


class Watcher:
    """Draws a bar for each task of a stream; it counts what this call does, not what existed before."""

    def __init__(self, add: AddBar) -> None:
        self._add = add
        self._bars: dict[str, Bar] = {}

    def __call__(self, event: Event) -> None:
        """Watch one event."""
        if isinstance(event, Started):
            total = None if event.total is None else int(event.total - event.done)
            self._bars[event.task] = self._add(event.task, total)
        elif isinstance(event, Stepped) and event.task in self._bars:
            self._bars[event.task].advance(event.images / event.total)
        elif isinstance(event, Progressed):
            self._bars[event.task].advance(event.units, detail=event.detail)
        elif isinstance(event, EpochEnded):
            detail = f"{event.label}: {event.accuracy:.0%} recognised"
            self._bars[event.task].advance(detail=detail)
