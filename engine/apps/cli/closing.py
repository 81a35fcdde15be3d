"""What a command that completes a data set does at its end: write the page about it, and say what stands there."""

from pathlib import Path

from engine.apps.cli.command import Call
from engine.errors import EngineError

MOST_REPORTED = 20_000
"""Images of a data set whose page is written without being asked for; all of them are read for it."""


def report(call: Call, folder: Path, images: int) -> None:
    """Write the page about a data set, and say what the classifier makes of it."""
    if images > MOST_REPORTED:
        call.screen.say(f"to look at them in a browser: ddis report {folder}")
        return
    from engine.report import REPORT, write_own_report

    try:
        closing = write_own_report(folder)
    except EngineError as error:  # the images are all there
        call.screen.say(f"warning: no report: {call.in_flags(str(error))}")
        return
    call.screen.say(f"{closing}\nto look at them in a browser: {folder / REPORT}")
