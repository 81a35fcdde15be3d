"""The page in a browser: run, stop, resume, filter, export, compare, and nothing that leaves this machine."""

import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request as WebRequest
from urllib.request import urlopen

import pytest

from engine.apps.cli.registry import COMMANDS
from engine.apps.cli.settings import understand
from engine.datasets.dataset import read_dataset
from engine.datasets.run_record import read_run
from engine.facts import request_of

MAIN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it runs in the background
from engine.apps.cli import main
sys.exit(main())
"""
PATIENCE_S = 240
WAYS = ("plain", "cat", "dag", "cat-dag")


@dataclass
class Studio:
    """A page that is served. said: the lines of its process so far are in this file."""

    process: "subprocess.Popen[bytes]"
    port: int
    folder: Path
    said: Path


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    pytest.importorskip("gradio", reason="gradio is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    said = tmp_path / "said.txt"
    words = ["studio", "--no-browser", "--port", str(port), "--out", "out"]
    with said.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", MAIN, *words], cwd=tmp_path, stdout=file, stderr=file
        )
    try:
        yield Studio(process, port, tmp_path / "out" / "1", said)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def page(browser: Any, studio: Studio) -> Iterator[Any]:
    """A tab of a browser. Every request to another address than the studio's fails the test."""
    elsewhere: list[str] = []
    wrong: list[str] = []
    tab = browser.new_page(viewport={"width": 1360, "height": 1000})
    tab.set_default_timeout(1000 * PATIENCE_S)
    ours = (f"http://127.0.0.1:{studio.port}/", "data:", "blob:")
    tab.on("request", lambda sent: sent.url.startswith(ours) or elsewhere.append(sent.url))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    _open(tab, studio)
    yield tab
    tab.close()
    assert elsewhere == []
    assert wrong == []


@pytest.mark.slow
def test_a_page_of_another_name_is_not_answered(studio: Studio) -> None:
    """As where a name of the internet is made to lead to this machine."""
    _wait_for(studio)
    address = f"http://127.0.0.1:{studio.port}/"
    assert urlopen(address).status == 200
    with pytest.raises(HTTPError, match="400"):
        urlopen(WebRequest(address, headers={"Host": f"elsewhere.example:{studio.port}"}))


def _wait_for(studio: Studio) -> None:
    for _ in range(PATIENCE_S):
        if b"the page is at" in studio.said.read_bytes():
            break
        assert studio.process.poll() is None, studio.said.read_text()
        time.sleep(1)


def _open(tab: Any, studio: Studio) -> None:
    _wait_for(studio)
    tab.goto(f"http://127.0.0.1:{studio.port}/")
    tab.wait_for_selector("#start")


def fill(page: Any, place: str, text: str) -> None:
    field = page.locator(f"{place} :is(input:not([type=range]), textarea)").first
    field.fill(text)
    field.press("Tab")


@pytest.mark.slow
def test_clicked_through(page: Any, studio: Studio, cartoon_tokens: Path) -> None:
    page.wait_for_selector("#need .work:has-text('of memory at most, of')")
    page.get_by_text("Prior, tokens, memory, more").click()
    fill(page, "#class-tokens", str(cartoon_tokens))
    fill(page, "#steps", "15")
    fill(page, "#number", "1")
    page.wait_for_selector(".work:has-text('8 images in 4 rows of equal seeds')")
    command_lines = page.locator("[data-copy]").get_attribute("data-copy").splitlines()

    # Run, stop and resume.
    page.locator("#start").click()
    page.wait_for_selector("#stage .tile.growing img")
    page.locator("#stop").click()
    page.wait_for_selector("#stage [data-state=stopped]")
    assert not (studio.folder / "cat-dag" / "manifest.parquet").exists()
    page.wait_for_selector("#start:has-text('Resume')")
    page.locator("#start").click()
    page.wait_for_selector("#stage [data-state=done]")

    # What came out is what is shown, and what the command lines ask for.
    assert page.locator("#stage .tile.made img").count() == 2 * len(WAYS)
    assert page.locator("#stage .lane").count() == page.locator("#stage polyline").count() == 4
    loaded = "[...document.querySelectorAll('#stage img')].every(one => one.naturalWidth === 64)"
    page.wait_for_function(loaded)
    shown = page.locator("#stage .tile img").evaluate_all("found => found.map(one => one.src)")
    # Equal pictures have one address: where no token helps a class, CAT's image is the plain one.
    assert len(shown) - len(WAYS) // 2 <= len({*shown}) <= len(shown)
    for way, line in zip(WAYS, command_lines, strict=True):
        found = understand("generate", shlex.split(line)[2:], COMMANDS)
        assert found is not None
        folder = studio.folder / way
        assert found.command.out == f"out/1/{way}"
        assert found.command.request == request_of(read_run(folder).made, folder)[0]

    # A page that is loaded again shows the run and what was chosen for it.
    page.reload()
    page.wait_for_selector("#stage [data-state=done]")
    page.wait_for_function("document.querySelector('#steps input').value === '15'")

    # Filter, drop and export.
    page.get_by_role("tab", name="Browse").click()
    page.locator("#browsed input").click()
    page.wait_for_selector("[role=option]:has-text('out/1/cat-dag')")
    offered = page.locator("[role=option]").all_inner_texts()
    assert sorted(text.split()[-1] for text in offered) == sorted(f"out/1/{way}" for way in WAYS)
    fill(page, "#browsed", "out/1/dag")
    page.locator("#open").click()
    tiles = page.locator("#grid [data-key]")
    page.wait_for_selector("#grid [data-key]")
    assert tiles.count() == 2
    rows = sorted(
        (row for _, row in read_dataset(studio.folder / "dag")), key=lambda row: row.confidence
    )
    assert int(100 * rows[0].confidence) < int(100 * rows[1].confidence)
    fill(page, "#confidence", str(int(100 * rows[1].confidence)))
    page.wait_for_selector("#count:has-text('1 shown')")
    key = f"{rows[1].class_index}.{rows[1].index}"
    assert tiles.evaluate_all("found => found.map(one => one.dataset.key)") == [key]
    tiles.first.click()
    page.wait_for_selector("#grid [aria-pressed=true]")
    page.wait_for_selector("#count:has-text('1 of 2 kept')")
    page.locator("#export").click()
    page.wait_for_selector("#browse-said .message.good:has-text('1 of 2 images are in')")
    kept = [row.key for _, row in read_dataset(studio.folder / "dag-chosen")]
    assert kept == [rows[0].key]

    # Another folder is opened without the filters of the first.
    fill(page, "#browsed", "out/1/plain")
    page.locator("#open").click()
    page.wait_for_selector("#count:has-text('2 of 2 kept, 2 shown')")
    assert page.locator("#confidence input[type=number]").input_value() == "0"

    # Compare.
    page.get_by_role("tab", name="Compare").click()
    fill(page, "#one", "out/1/plain")
    fill(page, "#other", "out/1/dag")
    page.locator("#compare").click()
    page.wait_for_selector("#compared .pairs")
    assert page.locator("#compared .pair").count() == 2
    assert "Equal seeds." in page.locator("#compared").inner_text()

    # A mistake is a sentence.
    fill(page, "#other", "out/none")
    page.locator("#compare").click()
    page.wait_for_selector("#compared .message.error:has-text('expected')")
    page.get_by_role("tab", name="Make").click()
    fill(page, "#seed", "3")
    page.locator("#start").click()
    page.wait_for_selector("#stage .message.error:has-text('seed is 0 there and 3 here. Expected')")
    fill(page, "#classifier", "nothing")
    page.wait_for_selector(
        "#need .message.error:has-text(\"unknown classifier 'nothing', expected\")"
    )
    assert "Traceback" not in page.content()

    # Ctrl-C ends it with one line, also in the middle of a run.
    fill(page, "#classifier", "embedded:cartoon")
    page.wait_for_selector("#need .work:has-text('of memory at most, of')")
    page.locator("#fresh").click()
    page.wait_for_selector(".command:has-text('--out out/2/plain')")
    page.locator("#start").click()
    page.wait_for_selector("#stage .tile.growing img")
    studio.process.send_signal(signal.SIGINT)
    assert studio.process.wait(10) == 130
    said = studio.said.read_text()
    only = r"the page is at \S+ until Ctrl-C\n+interrupted: the page is closed; .*\n"
    assert re.fullmatch(only, said), said
