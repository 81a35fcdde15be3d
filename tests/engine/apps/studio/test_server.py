"""What is served and where: this machine alone, one clear error for a port in use, the extra that brings Gradio."""

import socket
import sys
from pathlib import Path

import pytest

from engine.apps.cli import main
from engine.apps.studio import server
from engine.errors import MissingExtraError


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """Arguments of `serve`, which only says that the page is open."""
    calls: list[tuple[object, ...]] = []

    def serve(host, port, place, opened, browser):
        calls.append((host, port, place, browser))
        opened(f"http://{host}:{port}/")

    monkeypatch.setattr(server, "serve", serve)
    return calls


def test_by_default_the_page_is_this_machines_alone(
    served: list[tuple[object, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["studio"]) == 0
    assert served == [("127.0.0.1", 7860, Path("out/studio"), True)]
    said = capsys.readouterr().err
    assert "the page is at http://127.0.0.1:7860/ until Ctrl-C" in said
    assert "warning" not in said


def test_another_address_is_asked_for_and_warned_of(
    served: list[tuple[object, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--host", "0.0.0.0", "--port", "80", "--no-browser", "--out", "o"]
    assert main(["studio", *words]) == 0
    assert served == [("0.0.0.0", 80, Path("o"), False)]
    assert "warning: it listens at 0.0.0.0: whoever reaches this" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["0", "65536"])
def test_a_port_that_is_none(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["studio", "--port", port]) == 2
    assert f"--port is {port}, expected a whole number from 1 to 65535" in capsys.readouterr().err


def test_a_port_in_use_is_one_error(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["studio", "--no-browser", "--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"port {port} of 127.0.0.1 cannot be used (Address already in use), expected" in said
    server.check_free("127.0.0.1", port)


def test_an_address_that_is_not_this_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["studio", "--no-browser", "--host", "192.0.2.1"]) == 2
    assert "port 7860 of 192.0.2.1 cannot be used (" in capsys.readouterr().err


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(
        MissingExtraError, match=r"expected it for the page: `pip install 'ddis\[studio\]'`"
    ):
        server.load_gradio()
