"""What a runner is: it carries requests out, and it alone writes."""

from collections.abc import Iterator
from typing import Protocol

from engine.request import Request
from engine.types import Sample


class Runner(Protocol):
    """Carries out requests, on this machine or others. Where, how and into which folder is said when it is made."""

    def run(self, request: Request) -> Iterator[Sample]:
        """Load the models and check everything; then make images as the iterator is read.

        With a folder each image is yielded once it is on the disk, and what is there already is neither made nor
        yielded again. Raises EngineError's children before the first image for each mistake that is the caller's, and
        Cancelled once its events are cancelled: the same call then resumes.
        """
