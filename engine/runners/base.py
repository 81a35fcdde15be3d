"""The protocol of runners, which carry out requests; nothing else writes a data set."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from engine.errors import ConfigError
from engine.events import SILENT, Events
from engine.methods.models import NOTHING, Given
from engine.request import Execution, Request
from engine.types import Sample


class Runner(Protocol):
    """Carries out requests, on this machine or others.

    Args:
        out: folder of the data set; one that holds a part of the same run is resumed. None keeps nothing.
        execution: memory, device, attention: how images are made; not what they are of.
        events: reports progress to the caller, and lets the caller cancel the run.
        given: objects in place of models that a request names.
        expected: identities that the models must have, as a run.json holds them under "models".
    """

    def __init__(
        self,
        out: str | Path | None,
        execution: Execution,
        events: Events,
        given: Given,
        expected: Mapping[str, Any] | None,
    ) -> None: ...

    def run(self, request: Request) -> Iterator[Sample]:
        """Load the models and check everything; then make images as the iterator is read.

        With a folder, its run.json exists when this returns, an image is yielded after it is on the disk, and images
        that exist already are not yielded again. Raises EngineError's children before the first image for
        each mistake that is the caller's, and Cancelled once its events are cancelled: the same call then resumes.
        """


class BaseRunner:
    """What runners are made with; see `Runner`."""

    def __init__(
        self,
        out: str | Path | None = None,
        execution: Execution = Execution(),
        events: Events = SILENT,
        given: Given = NOTHING,
        expected: Mapping[str, Any] | None = None,
    ) -> None:
        self.out = out
        self.execution = execution
        self.events = events
        self.given = given
        self.expected = expected


class SharingRunner(BaseRunner):
    """What runners are made with that share a run with other processes, and so need a place to write to."""

    out: str | Path

    def __init__(self, out: str | Path | None = None, *arguments: Any, **named: Any) -> None:
        if out is None:
            raise ConfigError(
                "a run that several processes share was asked for without out, expected the folder or URL that all of "
                "them write to: name it."
            )
        super().__init__(out, *arguments, **named)


class PartsRunner(Runner, Protocol):
    """A runner that writes a data set in parts."""

    def parts(self, request: Request) -> Iterator[tuple[int, int]]:
        """As `run`, but gives the number of each part, and of those of its images that this call made."""
