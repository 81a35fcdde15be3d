"""What is chosen on the page, as words of `ddis generate`: page and command line mean the same run."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from engine.apps.cli.command import WITH_PRIOR
from engine.apps.cli.commands.generate import Generate
from engine.apps.cli.registry import COMMANDS
from engine.apps.cli.settings import Understood, understand
from engine.errors import ConfigError
from engine.request import METHODS, Execution, PriorSource, Request
from engine.settings.sampling import Sampling

WAYS = {
    "Plain": ("plain", False),
    "CAT": ("plain", True),
    "DAG": ("ddis", False),
    "CAT + DAG": ("ddis", True),
}
"""Ways of drawing by the names that the page shows: method, and whether with class tokens."""
ALL_WAYS = "All four"
INVERSION = "No prior"
INVERSIONS = tuple(name for name in METHODS if name not in WITH_PRIOR)


@dataclass(frozen=True, kw_only=True)
class Form:
    """What is chosen. tokens: a file, '' for none. inversion: the method of INVERSION. more: further words."""

    classifier: str
    out: str
    classes: tuple[str, ...] = ()
    way: str = ALL_WAYS
    inversion: str = INVERSIONS[0]
    images_per_class: int | None = 2
    steps: int | None = Sampling().steps
    seed: int | None = Request().seed
    prior: str = PriorSource().source
    tokens: str = ""
    memory: str = Execution().memory
    more: str = ""


@dataclass(frozen=True)
class Row:
    """One run of those that a form asks for. name: of its way. words: behind `ddis generate`."""

    name: str
    words: tuple[str, ...]

    @property
    def command_line(self) -> str:
        """The same run on the command line."""
        return shlex.join(["ddis", "generate", *self.words])

    def understood(self) -> Understood:
        """The command that the words ask for. Raises ConfigError as the command line does."""
        found = understand("generate", self.words, COMMANDS)
        if found is None or found.command.print_config:
            raise ConfigError(
                "the further options ask for help or for settings alone, expected options of a run: leave --help and "
                "--print-config out here, and give them to `ddis generate` in a terminal."
            )
        return found

    def command(self) -> Generate:
        """The command itself, with its request and execution."""
        return cast(Generate, self.understood().command)


def rows_of(form: Form) -> list[Row]:
    """The runs that a form asks for: one, or one for each way, each in a folder of its own; CAT needs tokens."""
    if form.way != ALL_WAYS:
        return [Row(form.way, _words(form, form.way, form.out))]
    ways = [way for way, (_, with_tokens) in WAYS.items() if form.tokens or not with_tokens]
    return [Row(way, _words(form, way, _folder(form.out, way))) for way in ways]


def _folder(out: str, way: str) -> str:
    """The folder of a way in that of the form; none where that is not named, which is refused later."""
    return (
        str(Path(out.strip()).expanduser() / way.lower().replace(" + ", "-")) if out.strip() else ""
    )


def _words(form: Form, way: str, out: str) -> tuple[str, ...]:
    """The words of one run. What is left at its default is left out."""
    method, with_tokens = WAYS.get(way, (form.inversion, False))
    draws = method in WITH_PRIOR
    words = ["--classifier", form.classifier, "--method", method]
    if form.classes:
        words += ["--classes", *form.classes]
    words += _given("--images-per-class", form.images_per_class)
    words += _given("--seed", form.seed, Request().seed)
    if draws:
        words += _given("--steps", form.steps, Sampling().steps)
        words += _given("--prior", form.prior.strip(), PriorSource().source)
        words += _given("--memory", form.memory.strip(), Execution().memory)
    if with_tokens:
        words += _given("--tokens", form.tokens.strip())
    return (*words, *_split(form.more), "--out", out.strip())


def _given(flag: str, value: int | str | None, default: int | str | None = None) -> list[str]:
    return [] if value in (None, "", default) else [flag, str(value)]


def _split(more: str) -> Sequence[str]:
    try:
        return shlex.split(more)
    except ValueError as error:
        raise ConfigError(
            f"further options are {more!r} ({error}), expected words as in a shell: close the quotes."
        ) from error
