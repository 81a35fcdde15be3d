"""A command: a frozen dataclass whose fields are its options, and what it does with them.

A field that holds a dataclass of settings is a section: its fields are options too, and it has its place in a
configuration file. The other fields are options of the command alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from engine.errors import ConfigError
from engine.events import Events
from engine.request import METHODS
from engine.settings.methods import DrawingSettings
from engine.settings.plain import to_plain

if TYPE_CHECKING:
    from engine.apps.progress import Screen

WITH_PRIOR = tuple(name for name, kind in METHODS.items() if issubclass(kind, DrawingSettings))
"""Methods that draw with a prior."""
ALIGNMENT = ("request.method.alignment.*", "!request.method.alignment.polish.*")
"""What guides latents, without what finished images go through."""
MODELS = ("request.classifier.*", "request.prior.*", "request.dtype", "execution.device")
"""Options of a command that loads a classifier and a prior, as patterns of `Command.options`."""

RESUMES = "run the same command again to resume where it stopped."
STARTS_OVER = "nothing of this run was kept, the same command starts over."


def local(help: str, metavar: str = "", default: Any = None, *, positional: bool = False) -> Any:
    """A field of which a configuration file knows nothing, such as where results are written.

    positional: given by its place among the words, without a flag.
    """
    marks = {"help": help, "metavar": metavar, "local": True, "positional": positional}
    return field(default=default, metadata=marks)


def needed(help: str, metavar: str = "FOLDER", *, positional: bool = False) -> Any:
    """A local field that has to be given. positional: as of `local`."""
    marks = {"help": help, "metavar": metavar, "local": True, "positional": positional}
    return field(metadata=marks)


def switch(help: str) -> Any:
    """A local field that is False unless its flag is given."""
    return field(default=False, metadata={"help": help, "local": True})


Preset = Literal["default", "fast", "best", "paper"]
"""Guidance and sampling under one name: a classmethod of the settings that have it."""


def preset() -> Any:
    """The field of `--preset`."""
    return local(
        "guidance and sampling: default: ours; fast: ours in less time; best: two moves a step, nearer "
        "and more varied; paper: DDIS as published",
        default="default",
    )


@dataclass(frozen=True, kw_only=True)
class Command:
    """What all commands have.

    options: which paths of its sections are options, as patterns; those behind a `!` are none. names: flags that differ
    from the rule of `options.flag_of`. helps: what a setting means to this command, where its own words do not suit,
    by its path. needs: paths that must have a value. methods: those that `--method` may name.
    common: flags that `--help` shows, all if empty; `--help-all` shows the others too. module: where its work is done;
    it is imported before `run`, if there is one. interrupted: what becomes of a run that is interrupted.
    """

    options: ClassVar[tuple[str, ...]] = ("*",)
    names: ClassVar[Mapping[str, str]] = MappingProxyType({})
    helps: ClassVar[Mapping[str, str]] = MappingProxyType({})
    needs: ClassVar[tuple[str, ...]] = ()
    methods: ClassVar[tuple[str, ...]] = tuple(METHODS)
    common: ClassVar[tuple[str, ...]] = ()
    module: ClassVar[str | None] = None
    interrupted: ClassVar[str] = STARTS_OVER

    config: Path | None = local(
        "take settings from a YAML or JSON file, or a run.json; flags override it", "FILE"
    )
    print_config: bool = switch("print all settings as YAML for --config, and stop")
    events: Path | None = local(
        "write what happens as JSON lines to a file; - is stderr, without bars", "FILE"
    )
    json: bool = switch("print one JSON object at the end and nothing else")
    quiet: bool = switch("no progress bars; results are still printed")
    help: bool = switch("show the options that most people need")
    help_all: bool = switch("show all options")

    @classmethod
    def settings_file(cls, given: Mapping[str, Any]) -> Path | None:
        """The configuration file or run.json that the given flags name."""
        return Path(given["config"]) if "config" in given else None

    @classmethod
    def preset_values(cls, given: Mapping[str, Any], method: str) -> dict[str, Any]:
        """Plain values, section by section, of the presets among the given flags."""
        return of_preset(given, method)

    def run(self, call: "Call") -> dict[str, Any]:
        """Carry the command out. Returns what `--json` prints."""
        raise NotImplementedError


def of_preset(given: Mapping[str, Any], method: str, **sections: Any) -> dict[str, Any]:
    """The values of `--preset`: those of the method, and of other sections by their names."""
    preset = given.get("preset", "default")
    if preset == "default" or preset not in get_args(Preset):
        return {}  # choices are checked later
    having = [name for name in WITH_PRIOR if hasattr(METHODS[name], preset)]
    if method not in having:
        raise ConfigError(
            f"preset is {preset!r} with --method {method}, expected 'default', or {preset!r} with --method "
            f"{' or '.join(having)}: choose one of these."
        )
    values = {name: to_plain(getattr(kind, preset)()) for name, kind in sections.items()}
    settings = to_plain(getattr(METHODS[method], preset)())
    settings.pop("tokens", None)
    return {"request": {"method": settings}, **values}


@dataclass(frozen=True)
class Call:
    """How a command was called, and where it speaks.

    given: paths of the flags on the command line. explicit: plain values of flags and configuration file, without
    defaults. record: the run.json that the configuration was taken from, if it was one. in_flags: puts flags in place
    of the fields that a text names.
    """

    given: frozenset[str]
    explicit: Mapping[str, Any]
    record: Mapping[str, Any] | None
    screen: "Screen"
    events: Events
    in_flags: Callable[[str], str]
