"""The runs that were started on the page, one after the other in a thread of their own: a page can be reloaded."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path

from engine.apps.cli.command import Call
from engine.apps.cli.program import check_sources, warnings_in_words
from engine.apps.studio.form import Row
from engine.apps.studio.planned import Printout
from engine.apps.studio.watch import Watch
from engine.errors import ConfigError, EngineError
from engine.events import Cancelled, Events

PATIENCE_S = 60
"""How long a page that is closed waits for the step that is being computed; Ctrl-C ends the process before."""
UNEXPECTED = (
    "the run ended in an error that is not yours, expected images: the terminal of `ddis studio` has its place in the "
    "code. Start again to resume what was made."
)


class Session:
    """Carries out the commands of some rows. Made by `begin`.

    working: held by whoever works with models. Loading them changes settings of libraries for a while, and is not for
    two threads at once.
    """

    def __init__(self, rows: Sequence[Row], working: threading.Lock) -> None:
        self._working = working
        self.understood = [row.understood() for row in rows]
        self.watches = []
        for row, one in zip(rows, self.understood, strict=True):
            check_sources(one.command)
            self.watches.append(Watch(row, Path(getattr(one.command, "out", ""))))
        self._events = Events()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="ddis-run", daemon=True)

    @property
    def going(self) -> bool:
        return self._thread.is_alive()

    @property
    def done(self) -> bool:
        """Whether each run came to its end."""
        return all(watch.state == "done" for watch in self.watches)

    @property
    def stopping(self) -> bool:
        return self.going and self._stopped

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the run to end at its next event, from where its folder can be resumed."""
        self._stopped = True
        self._events.cancel()

    def wait(self, seconds: float | None = None) -> None:
        self._thread.join(seconds)

    def _work(self) -> None:
        try:
            with self._working:
                for number, watch in enumerate(self.watches):
                    if self._stopped or not self._carried_out(number, watch):
                        break
        finally:
            for watch in self.watches:
                if watch.state == "waiting":
                    watch.state = "stopped"

    def _carried_out(self, number: int, watch: Watch) -> bool:
        """Carry out one command; whether it came to its end. An error is kept for the page."""
        understood = self.understood[number]
        self._events = Events(watch, losses=True, previews=True)
        if self._stopped:  # since it was asked, before there was anything to cancel
            self._events.cancel()
        watch.state, watch.error = "loading", UNEXPECTED  # until it is known how it ends

        screen = Printout()
        call = Call(
            understood.given,
            understood.explicit,
            understood.record,
            screen,
            self._events,
            understood.flagged,
        )
        try:
            with warnings_in_words(understood.flagged, watch.note):
                understood.command.run(call)
            watch.printed = [text for text in screen.parts if isinstance(text, str)]
            watch.finish()
            watch.error = ""
            return True
        except Cancelled:
            watch.state, watch.error = "stopped", ""
        except EngineError as error:
            watch.error = understood.flagged(str(error))
        finally:
            if watch.error:
                watch.state = "failed"
        return False


class Desk:
    """The session that all pages of a studio look at."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self._working = threading.Lock()

    @property
    def going(self) -> bool:
        return self.session is not None and self.session.going

    def begin(self, rows: Sequence[Row]) -> Session:
        """Start some runs. Raises ConfigError for settings that make no sense, and while others are going."""
        if self.going:
            raise ConfigError(
                "a run is going on already, expected one at a time: stop it, or wait until it is done."
            )
        session = Session(rows, self._working)
        if self.session is not None:
            for watch, known in product(session.watches, self.session.watches):
                if known.row == watch.row:
                    watch.follow(known)
        self.session = session
        session.start()
        return session

    def picture(self, name: str) -> str | None:
        """A finished image of the session by the name of its picture, as a data URI; None where there is none."""
        watches = [] if self.session is None else self.session.watches
        shots = (shot for watch in watches for shot in [*watch.shots.values()] if shot.made)
        return next((shot.src for shot in shots if shot.src and shot.name == name), None)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside the block nobody else works with models. Raises ConfigError while a run is going."""
        self._check_free()
        while not self._working.acquire(timeout=1):
            self._check_free()
        try:
            self._check_free()
            yield
        finally:
            self._working.release()

    def _check_free(self) -> None:
        if self.going:
            raise ConfigError(
                "a run is going on, expected none while other models are looked at: choose again once it is done."
            )

    def close(self) -> None:
        """Stop what is going on, and wait for it: a process that ends in the middle of a computation crashes."""
        if self.session is not None:
            self.session.stop()
            self.session.wait(PATIENCE_S)
        self._working.acquire(timeout=PATIENCE_S)
