"""What `ddis` does with its words: find the command, carry it out, and end well whatever happens.

Exit codes: 0 done, 2 a mistake that the message explains, 130 interrupted (the message says what the same command does
then), 141 nobody reads the output any more.
"""

import errno
import gc
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from engine.apps.cli.interruption import Interruption
from engine.apps.cli.streams import leave_quietly, say_last
from engine.errors import ConfigError, EngineError, EngineWarning

if TYPE_CHECKING:
    from engine.apps.cli.command import Command
    from engine.apps.cli.settings import Understood
    from engine.apps.progress import Screen

INTERRUPTED = 130
ABOUT = "From a pretrained classifier and none of its data: images like its training set."
SHELLS = ("bash", "zsh", "fish")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `ddis` with these words (those of the process if None) and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with Interruption(INTERRUPTED) as interruption:
        try:
            return _main(words, interruption)
        except BrokenPipeError:
            return leave_quietly()
        except BaseException as error:
            if interruption.happened or isinstance(error, KeyboardInterrupt):
                # An import that is cut can end in any error.
                say_last(interruption.message)
                return INTERRUPTED
            if _is_out_of_memory(error):
                said, then = " ".join(str(error).split()), interruption.message.partition(": ")[2]
                say_last(
                    f"error: memory ran out ({said[:160] or type(error).__name__}), expected room for this command: "
                    "close what else uses the device, or lower `--memory`, `--batch` or the number of images; then "
                    f"{then}"
                )
                return 2
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                say_last(
                    f"error: what is printed cannot be written ({error.strerror}), expected room for it: free some, "
                    "or write it elsewhere."
                )
                return leave_quietly(2)
            if not isinstance(error, EngineError):
                raise
            say_last(f"error: {error}")
            return 2


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python or torch says so. torch's own class goes by its name: it may not be imported."""
    if isinstance(error, EngineError):
        return False
    by_name = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or by_name


def _main(words: list[str], interruption: Interruption) -> int:
    from engine.apps.cli.registry import COMMANDS
    from engine.apps.cli.settings import understand

    name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else "".join(words[:1])
    if name not in COMMANDS:
        return _without_command(words)
    rest = words[len(name.split()) :]
    interruption.message = f"interrupted: {COMMANDS[name].interrupted}"
    understood = understand(name, rest, COMMANDS)
    if understood is not None:
        _carry_out(understood, name)
    sys.stdout.flush()
    return 0


def _carry_out(understood: "Understood", name: str) -> None:
    """Run a command, or print its settings."""
    from engine.apps.cli.config import written

    command = understood.command
    if command.print_config:
        print(written(command, name), end="")
        return

    try:
        check_sources(command)
        from engine.apps.progress import Screen

        screen = Screen(quiet=command.quiet or str(command.events) == "-", silent=command.json)
        with warnings_in_words(understood.flagged, _warn):
            _run(understood, command, screen)
    except EngineError as error:
        raise EngineError(understood.flagged(str(error))) from error


def _run(understood: "Understood", command: "Command", screen: "Screen") -> None:
    from engine.apps.cli.command import Call
    from engine.apps.progress import watching
    from engine.networks.later import imports_spared

    with imports_spared():
        if command.module is not None:
            import_heavy(command.module)
        with watching(screen, command.events) as events:
            given, explicit, flagged = understood.given, understood.explicit, understood.flagged
            call = Call(given, explicit, understood.record, screen, events, flagged)
            result = command.run(call)
    if command.json:
        print(json.dumps(result))


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


@contextmanager
def warnings_in_words(
    flagged: Callable[[str], str], say: Callable[[str], object]
) -> Iterator[None]:
    """Hand the engine's own warnings to `say` as a person reads them, each text once; the others go on as ever.

    For one thread at a time: how warnings are shown is the process's.
    """
    shown: set[str] = set()
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if not category.__module__.startswith("engine."):
            usual(message, category, *place, **more)
        elif (text := flagged(str(message))) not in shown:
            shown.add(text)
            say(text)

    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=EngineWarning)
        warnings.showwarning = show
        yield


def check_sources(command: "Command") -> None:
    """Refuse models whose names alone are wrong, before libraries are imported for them."""
    from engine.request import OBJECT, Request
    from engine.settings.sources import check_classifier, check_prior, statistics_source

    request = getattr(command, "request", None)
    if isinstance(request, Request):
        for named in (request.classifier, request.student):
            if named is not None and named.source and not named.source.startswith(OBJECT):
                check_classifier(named.source)
                statistics_source(named.statistics)
        check_prior(request.prior.source)


def import_heavy(module: str) -> None:
    """Import a module and all that it needs.

    Imports leave no garbage, and looking for it would take an eighth of their time. Idle OpenMP threads sleep unless
    the environment says otherwise: on a busy machine, spinning ones make small models several times slower.
    """
    from engine.networks.later import imports_spared

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    gc.disable()
    try:
        with imports_spared():
            import_module(module)
    finally:
        gc.enable()
        gc.freeze()


def _without_command(words: list[str]) -> int:
    """What `ddis` does where no command is named: help, its version, or a completion script."""
    match words:
        case [] | ["-h" | "--help" | "--help-all"]:
            print(_help())
        case ["--version"]:
            from importlib.metadata import version

            print(f"ddis {version('ddis')}")
        case ["--completion", shell] if shell in SHELLS:
            from engine.apps.cli.completion import script

            print(script(shell))
        case ["--completion", *shell]:
            raise ConfigError(
                f"--completion is for {' '.join(shell) or 'no shell'!r}, expected one of {', '.join(SHELLS)}: name "
                "your shell."
            )
        case _:
            raise ConfigError(_no_command(words))
    sys.stdout.flush()
    return 0


def _no_command(words: list[str]) -> str:
    from engine.apps.cli.registry import COMMANDS
    from engine.settings.plain import nearest

    known = [*COMMANDS, "--help", "--version", "--completion"]
    beginning = f"{words[0]} "
    if any(name.startswith(beginning) for name in COMMANDS):
        known = [name for name in COMMANDS if name.startswith(beginning)]
        words = [" ".join(words[:2])]
    return (
        f"{words[0]!r} is no command, expected {', '.join(known)}: `ddis --help` says what each does."
        f"{nearest(words[0], known)}"
    )


def _help() -> str:
    """All commands, with a line on each."""
    from engine.apps.cli.registry import COMMANDS

    lines = [f"usage: ddis COMMAND [OPTIONS]\n\n{ABOUT}\n"]
    for name, command in COMMANDS.items():
        about = (command.__doc__ or "").split("\n")[0].rstrip(".")
        lines.append(f"  {name:<16}{about}")
    lines.append(
        "\n  ddis COMMAND --help     the options of a command\n"
        "  ddis --version          the version of the package\n"
        f"  ddis --completion {{{','.join(SHELLS)}}}  a script that lets the shell complete commands and options"
    )
    return "\n".join(lines)
