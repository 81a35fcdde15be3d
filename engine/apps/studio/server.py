"""Serves the page on this machine until it is interrupted. Nothing is sent elsewhere."""

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.apps.cli.program import import_heavy
from engine.errors import ConfigError, MissingExtraError

LOOPBACK = ("127.0.0.1", "localhost")
QUIET = {"GRADIO_ANALYTICS_ENABLED": "0", "DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
KEEP = {"Cache-Control": "private, max-age=86400, immutable"}
LARGEST_UPLOAD = "1kb"
"""The page takes no file; Gradio's own address for them takes no more than this."""


def load_gradio() -> Any:
    """The module gradio, which then reports nothing. Raises MissingExtraError."""
    for name, value in QUIET.items():
        os.environ[name] = value
    try:
        import gradio
    except ImportError as error:
        raise MissingExtraError(
            "gradio is not installed, expected it for the page: `pip install 'ddis[studio]'`, or use `ddis generate` "
            "and `ddis report`, which need nothing else."
        ) from error
    return gradio


def check_free(host: str, port: int) -> None:
    """Raise ConfigError where nobody can listen at an address of this machine."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
    except OSError as error:
        raise ConfigError(
            f"port {port} of {host} cannot be used ({error.strerror or error}), expected one that is free on this "
            "machine: close what uses it, or choose another with --port."
        ) from error


def serve(host: str, port: int, place: Path, opened: Callable[[str], Any], browser: bool) -> None:
    """Show the page until the process is interrupted. Raises ConfigError, MissingExtraError.

    opened: called with the page's address. browser: whether to open one. place: where new folders are.
    """
    check_free(host, port)
    gr = load_gradio()
    import_heavy("engine.runners.generate")
    import_heavy("engine.memory.plan")
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from engine.apps.studio.page import blocks, looks
    from engine.apps.studio.pictures import PICTURES, content_of
    from engine.apps.studio.session import Desk

    desk = Desk()

    def picture(request: Request) -> Response:
        """A finished image, which keeps its name only as long as its content."""
        found = desk.picture(request.path_params["name"])
        if found is None:
            return Response(status_code=404)
        content, media_type = content_of(found)
        return Response(content, media_type=media_type, headers=KEEP)

    page = blocks(gr, desk, place)
    try:
        _, address, _ = page.queue(api_open=False).launch(
            server_name=host,
            server_port=port,
            inbrowser=browser,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            footer_links=[],
            run_history=False,
            max_file_size=LARGEST_UPLOAD,
            # A page elsewhere whose name leads to this machine must not reach the studio.
            app_kwargs={
                "routes": [Route(f"/{PICTURES}/{{name}}", picture)],
                "middleware": [
                    Middleware(
                        TrustedHostMiddleware,
                        allowed_hosts=[*LOOPBACK] if host in LOOPBACK else ["*"],
                    )
                ],
            },
            **looks(gr),
        )
        opened(address)
        threading.Event().wait()
    finally:  # the server ends with the process
        desk.close()
