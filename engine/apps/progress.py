"""What a command tells a person: bars (or a line a minute) and remarks on stderr, and what was asked on stdout."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from engine.events import (
    EpochEnded,
    Event,
    Events,
    Finished,
    Noted,
    Progressed,
    Started,
    Stepped,
    Summarised,
)
from engine.files import explained

LINE_EVERY_S = 60
"""How often a task says how far it is where no bar can be drawn."""


class Terminal(Console):
    """A console that leaves it to the program what happens where nobody reads its output any more."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class Screen:
    """What a command tells while it runs. `quiet` hides the bars, `silent` everything."""

    def __init__(self, quiet: bool = False, silent: bool = False) -> None:
        self.quiet = quiet or silent
        self.silent = silent
        self.console = Terminal(stderr=True)
        self.results = Terminal()

    def say(self, text: str, result: bool = False) -> None:
        """Print one line for a person. result: it is what the command was asked for, and goes to stdout."""
        if not self.silent:
            console = self.results if result else self.console
            console.print(text, highlight=False, markup=False, soft_wrap=True)

    def table(
        self, title: str, columns: list[str], rows: list[list[str]], result: bool = False
    ) -> None:
        """Print a small table for a person under a line that is its title; result: as for `say`."""
        if self.silent:
            return
        self.say(title, result)
        table = Table()
        for number, column in enumerate(columns):
            table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*map(escape, row))
        (self.results if result else self.console).print(table)


@contextmanager
def watching(screen: Screen, lines: Path | None = None) -> Iterator[Events]:
    """Events that show as bars on the screen and, one JSON object a line, in a file; - is stderr."""
    if lines is None:
        with Bars(screen).shown() as bars:
            yield Events(bars)
    elif str(lines) == "-":
        yield Events(lambda event: print(event.to_json(), file=sys.stderr, flush=True))
    else:
        with explained(lines):
            file = lines.open("w", encoding="utf-8")
        with EventFile(file, lines, screen) as write, Bars(screen).shown() as bars:
            yield Events(bars, write)


class EventFile:
    """Events as lines of an open file. Where it cannot be written any more, the run goes on without."""

    def __init__(self, file: TextIO, path: Path, screen: Screen) -> None:
        self._file, self._path, self._screen = file, path, screen
        self._broken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):  # a line that was not written is in its buffer still
            self._file.close()

    def __call__(self, event: Event) -> None:
        if self._broken:
            return
        try:
            print(event.to_json(), file=self._file, flush=True)
        except OSError as error:
            self._broken = True
            self._screen.say(
                f"warning: cannot write {self._path}: {error.strerror or error}; the run goes on without events"
            )


class Bars:
    """A bar for each task that is running, drawn from its events; a line now and then where there is no terminal."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._lines = not screen.quiet and not screen.console.is_terminal
        self._said = time.monotonic()
        self._columns = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=screen.console,
            disable=screen.quiet or not screen.console.is_terminal,
        )
        self._bars: dict[str, TaskID] = {}
        self._told: dict[TaskID, str] = {}

    @contextmanager
    def shown(self) -> Iterator["Bars"]:
        """Leave the terminal as it was, however the block ends."""
        try:
            yield self
        finally:
            self._columns.stop()

    def __call__(self, event: Event) -> None:
        match event:
            case Started(task, total, done):
                self._columns.start()
                if task not in self._bars:
                    self._bars[task] = self._columns.add_task(task, total=total, detail="")
                bar = self._bars[task]
                self._columns.update(bar, total=total, completed=done, visible=total != 0)
            case Stepped(task, images, _, steps) if task in self._bars:
                self._columns.update(self._bars[task], advance=images / steps)
            case EpochEnded(task, _, label, _, accuracy) if task in self._bars:
                detail = f"{label}: {accuracy:.0%} recognised"
                self._columns.update(self._bars[task], advance=1, detail=detail)
            case Progressed(task, units, detail) if task in self._bars:
                self._columns.update(self._bars[task], advance=units, detail=detail)
            case Noted(text):
                self._screen.say(text)
            case Summarised():
                self._screen.say(event.text)
            case Finished(task) if task in self._bars:
                if self._bars[task] in self._told:
                    self._tell(self._bars[task])
                del self._bars[task]
                if not self._bars:
                    self._columns.stop()
        if self._lines and time.monotonic() - self._said > LINE_EVERY_S:
            self._said = time.monotonic()
            for bar in self._bars.values():
                self._tell(bar)

    def _tell(self, bar: TaskID) -> None:
        """Say in a line how far a task is, unless that was said last."""
        line = _line(next(task for task in self._columns.tasks if task.id == bar))
        if line != self._told.get(bar):
            self._screen.say(line)
        self._told[bar] = line


def _line(task: Task) -> str:
    """How far a task is: 'images: 56 of 357 (cat)'."""
    of = "" if task.total is None else f" of {task.total:,.0f}"
    detail = task.fields["detail"]
    return f"{task.description}: {task.completed:,.0f}{of}{f' ({detail})' * bool(detail)}"
