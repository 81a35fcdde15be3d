"""Workers, wherever they are, as the driver knows them: what it asks of them and what they answer."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.errors import EngineError

Handle = Hashable
"""How the driver and a pool name a worker: an actor of Ray, or whatever the pool takes."""


class ClusterError(EngineError):
    """The workers of a run are lost again and again."""


@dataclass(frozen=True)
class Ready:
    """A worker is ready. hello: what it says of itself."""

    worker: Handle
    hello: Any


@dataclass(frozen=True)
class Made:
    """A worker made a part. result: what it says of it."""

    worker: Handle
    part: int
    result: Any


@dataclass(frozen=True)
class Lost:
    """A worker is gone, or never got ready.

    part: what it was making, None while it started. with_node: its node is gone or cannot be reached, which is no fault
    of the part.
    """

    worker: Handle
    part: int | None
    reason: str
    with_node: bool = False


@dataclass(frozen=True)
class Failed:
    """A worker is well and answered with an error."""

    worker: Handle
    part: int | None
    error: Exception


Answer = Ready | Made | Lost | Failed


class Pool(Protocol):
    """Workers, wherever they are. Each has one thing to do at a time."""

    def start(self) -> Handle:
        """Begin a worker; `Ready`, `Lost` or `Failed` follows."""

    def give(self, worker: Handle, part: int) -> None:
        """Let a ready worker make a part; `Made`, `Lost` or `Failed` follows."""

    def answers(self, seconds: float) -> Sequence[Answer]:
        """What arrived, waiting for as many seconds at most. Nothing follows from a worker that was stopped."""

    def stop(self, worker: Handle) -> None:
        """End a worker at once, also one that does not answer."""
