"""The page in a browser, in a window as wide as a phone's: all of it fits, and what is touched answers."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from engine.datasets.dataset import open_dataset
from engine.report import write_report
from engine.request import ClassifierSource, Request
from engine.types import ImageKey, Sample

PHONE = {"width": 390, "height": 844}
LABELS = (
    *("dog", "mail bag, postbag", "Haus", "guitar", "person", "giraffe", "elephant"),
    *("warplane, military plane, and others of its kind", "n02084071_dog_of_the_training_set"),
    "Donaudampfschifffahrtsgesellschaftskapitaensmuetze",
)
OUTSIDE = """
[...document.querySelectorAll("body *")]
  .filter(one => !one.closest(".scroll") || one.matches(".scroll"))
  .filter(one => !one.closest("dialog:not([open])"))
  .filter(one => !one.parentElement.closest("svg"))
  .map(one => [one, one.getBoundingClientRect()])
  .filter(([one, box]) => box.width && (box.left < -0.5 || box.right > innerWidth + 0.5))
  .map(([one]) => one.outerHTML.slice(0, 120))
"""
"""The elements that stand out of the window, but for those in a part that scrolls by itself."""

NARROW = """
[...document.querySelectorAll("td.long")]
  .filter(one => one.textContent.length > 12 && one.getBoundingClientRect().width < 100)
  .map(one => one.outerHTML.slice(0, 120))
"""
"""Cells of words that have no room for them: they would be read from top to bottom."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of 100 images of ten classes, some with long names, and of an evaluation and a comparison of them."""
    folder = tmp_path_factory.mktemp("phone") / "a-rather-long-name-of-a-folder-of-images" / "set"
    labels = dict(enumerate(LABELS))
    rng = torch.Generator().manual_seed(0)
    request = Request(classifier=ClassifierSource(source="checkpoint.pt", labels=LABELS))
    with open_dataset(folder, {"request": request.to_plain(), "models": {}}, labels) as writer:
        for place in range(100):
            index, number = divmod(place, len(LABELS))
            logits = torch.randn(len(LABELS), generator=rng)
            logits[number] += 2
            writer.add(
                Sample(
                    key=ImageKey(number, index),
                    label=labels[number],
                    seed=place,
                    prompt=f"a photograph of a {labels[number]}, taken from afar in the evening",
                    token="",
                    image=torch.rand(3, 32, 32, generator=rng) * torch.rand(3, 1, 1, generator=rng),
                    logits=logits,
                    l_bn=10 * float(torch.rand(1, generator=rng)),
                    confidence=float(logits.softmax(0)[number]),
                    group="",
                )
            )
        curve = {"images": 100, "steps": [1, 2, 5], "mean": [3.0, 2.0, 1.5], "spread": [0.1] * 3}
        writer.finish({"seconds": 3.5, "device": "cpu", "descended": curve})
    compared = folder.parent / "compared"
    compared.mkdir()
    summary = {"mean": 0.5, "spread": 0.1, "values": [0.4, 0.6]}
    row = {"images": 100, "accuracy": summary, "agreement": summary, "kl": summary}
    content = {
        "task": "distill",
        "measured_on": "the test images",
        "rows": {"original": row, "images of the plain prior": row, "folder": row},
        "warnings": ["2 seeds: the spread says little."],
    }
    (compared / "report.json").write_text(json.dumps(content))
    return write_report([folder, compared], folder.parent / "report.html")


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    """The report in a window of a phone's width, which nothing but the file is read for."""
    elsewhere: list[str] = []
    wrong: list[str] = []
    tab = browser.new_page(viewport=PHONE, device_scale_factor=2)
    tab.on(
        "request",
        lambda sent: sent.url.startswith(("file:", "data:")) or elsewhere.append(sent.url),
    )
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.goto(report.as_uri())
    yield tab
    tab.close()
    assert elsewhere == []
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_stands_out_of_a_phones_window(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert page.evaluate(OUTSIDE) == []
    assert page.evaluate(NARROW) == []
    assert page.locator(".filtered button").count() == 100
    ink = page.evaluate("getComputedStyle(document.body).color")
    corner = page.screenshot(clip={"x": 0, "y": 0, "width": 4, "height": 4})
    with Image.open(io.BytesIO(corner)) as picture:
        paper = picture.convert("L").getpixel((0, 0))
    if scheme == "light":
        assert ink == "rgb(0, 0, 0)"
        assert paper > 240
    else:
        assert ink == "rgb(255, 255, 255)"
        assert paper < 40


@pytest.mark.slow
def test_a_picture_opens_and_classes_are_filtered(page: Any) -> None:
    loaded = "[...document.querySelectorAll('.filtered img')].filter(one => one.naturalWidth)"
    assert page.evaluate(f"{loaded}.length") == 0  # they are far below what is seen
    page.locator(".filtered button").first.scroll_into_view_if_needed()
    page.wait_for_function(f"{loaded}.length > 0")
    page.locator(".filtered button").first.click()
    assert page.evaluate("document.querySelector('dialog img').naturalWidth") == 32
    box = page.locator("dialog[open]").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= PHONE["width"]
    assert "seed 0" in page.locator("dialog p").inner_text()
    page.mouse.click(2, 2)
    assert page.locator("dialog[open]").count() == 0
    page.locator(".by-class").select_option("guitar")
    shown = page.locator(".filtered button:not([hidden])")
    assert shown.count() == 10
    assert {*shown.evaluate_all("found => found.map(one => one.dataset.label)")} == {"guitar"}
    page.locator(".only-wrong").check()
    wrong = page.locator(".filtered button.wrong[data-label=guitar]").count()
    assert shown.count() == wrong < 10
