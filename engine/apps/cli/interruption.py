"""Ctrl-C ends the program within two seconds, wherever it is: in an import, a long kernel or a callback of a library.

Python raises KeyboardInterrupt between two of its own instructions. A call into C may not return for minutes, and a
library may swallow the exception, so a thread watches the signals too and ends the process if it lingers. Files appear
whole or not at all (`engine.files`), so that a run can be resumed however it ended.
"""

import os
import signal
import threading
from types import FrameType
from typing import Any, Self

GRACE_S = 1.5
"""How long the process may take to end by itself."""


class Interruption:
    """Within, SIGINT is watched. `message` is what is said when the process has to be ended."""

    def __init__(self, exit_code: int) -> None:
        self.message = "interrupted: nothing was begun."
        self.happened = False
        self._exit_code = exit_code
        self._before: Any = None
        self._done = threading.Event()

    def __enter__(self) -> Self:
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            self._before = signal.signal(signal.SIGINT, self._interrupt)
            reading, self._writing = os.pipe()
            os.set_blocking(self._writing, False)
            signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(reading,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            self._done.set()
            signal.set_wakeup_fd(-1)
            os.close(self._writing)  # the watching thread reads the end of the pipe
            signal.signal(signal.SIGINT, self._before)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.happened = True
        raise KeyboardInterrupt

    def _watch(self, reading: int) -> None:
        while received := os.read(reading, 1):
            if received[0] == signal.SIGINT:
                self.happened = True
                if not self._done.wait(GRACE_S):
                    os.write(2, f"\n{self.message}\n".encode())
                    os._exit(self._exit_code)
        os.close(reading)
