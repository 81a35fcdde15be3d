"""What is said last, on streams that may be closed or full."""

import os
import sys

CLOSED_PIPE = 141
"""The exit code where nobody reads the output any more."""


def say_last(message: str) -> None:
    """Print on stderr, if that can be written."""
    try:
        print(message, file=sys.stderr, flush=True)
    except OSError:
        leave_quietly()


def leave_quietly(code: int = CLOSED_PIPE) -> int:
    """End with no more words where the output cannot be written; what Python flushes at its end goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
    return code
