"""`ddis studio`: a page on which images appear."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.apps.cli.command import Call, Command, local
from engine.errors import ConfigError
from engine.settings.fields import setting

PORT = 7860
HOST = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Studio(Command):
    """Open a page on which to make images, look at them while they are made, choose and compare them."""

    interrupted = "the page is closed; the same command opens it again, and Start resumes a run in its folder."

    host: str = setting(
        HOST,
        "address to listen at; by default this machine alone. Whoever reaches another can write files as you",
        "ADDRESS",
    )
    port: int = setting(PORT, "port of the page", "N")
    browser: bool = setting(True, "open a browser")
    out: Path = local("where new folders are", "FOLDER", default=Path("out/studio"))

    def __post_init__(self) -> None:
        if not 0 < self.port < 2**16:
            raise ConfigError(
                f"port is {self.port}, expected a whole number from 1 to 65535: choose a free one."
            )

    def run(self, call: Call) -> dict[str, Any]:
        from engine.apps.studio.server import LOOPBACK, serve

        def opened(address: str) -> None:
            call.screen.say(f"the page is at {address} until Ctrl-C")
            if self.host not in LOOPBACK:
                call.screen.say(
                    f"warning: it listens at {self.host}: whoever reaches this can start runs and write files as you"
                )

        serve(self.host, self.port, self.out, opened, self.browser)
        return {}
