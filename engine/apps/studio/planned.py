"""What `ddis plan` says of a run, for the page, and what the run will have to compute."""

from dataclasses import dataclass, field, replace
from typing import cast

from engine.apps.cli.command import Call
from engine.apps.cli.commands.generate import Generate
from engine.apps.cli.commands.plan import Plan
from engine.apps.progress import Screen
from engine.apps.studio.form import Row
from engine.errors import EngineError, counted
from engine.events import SILENT
from engine.memory.budget import in_words
from engine.request import Request
from engine.settings.methods import DrawingSettings


@dataclass(frozen=True)
class Table:
    """A table that a command prints."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass
class Printout(Screen):
    """Collects what a command prints: lines and tables, in order."""

    parts: list[str | Table] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(silent=True)

    def say(self, text: str, result: bool = False) -> None:
        self.parts.append(text)

    def table(
        self, title: str, columns: list[str], rows: list[list[str]], result: bool = False
    ) -> None:
        self.parts.append(Table(title, columns, rows))


@dataclass(frozen=True)
class Planned:
    """What `ddis plan` says of a run. need: the most memory that it takes, in words."""

    need: str
    parts: list[str | Table]


def plan_of(row: Row) -> Planned:
    """Plan a row's request. Raises EngineError as `ddis plan` does."""
    understood = row.understood()
    command = cast(Generate, understood.command)
    printout = Printout()
    if not isinstance(command.request.method, DrawingSettings):
        return Planned(f"method {command.request.method.name} uses no prior: nothing to plan", [])
    request = replace(command.request, classes=None)
    flagged = understood.flagged
    plan = Plan(request=request, execution=replace(command.execution, share=None))
    call = Call(understood.given, understood.explicit, understood.record, printout, SILENT, flagged)
    try:
        report = plan.run(call)
    except EngineError as error:
        raise EngineError(flagged(str(error))) from error
    peak, budget = max(report["peak_bytes"].values()), report["budget_bytes"]
    return Planned(f"{in_words(peak)} of memory at most, of {in_words(budget)}", printout.parts)


def work_of(commands: list[Generate], classes: int) -> str:
    """What some runs will compute, in a line. classes: those of the classifier, where a request names none."""
    images = [_images(command.request, classes) for command in commands]
    total = sum(images)
    methods = [command.request.method for command in commands]
    evaluations = sum(
        number * method.sampling.evaluations
        for number, method in zip(images, methods, strict=True)
        if isinstance(method, DrawingSettings)
    )
    said = counted(total, "image")
    if len(commands) > 1:
        said += f" in {len(commands)} rows of equal seeds"
    return f"{said}, {counted(evaluations, 'evaluation')} of the denoiser" if evaluations else said


def _images(request: Request, classes: int) -> int:
    return (len(request.classes) if request.classes else classes) * request.images_per_class
