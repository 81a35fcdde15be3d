"""How large the report of a large data set is, and how long a browser takes to show it.

python bench/studies report_page [--images 10000]

Writes a data set of images richer in detail than photographs (noise whose amplitude falls with frequency), reports it
as `ddis report` does, and opens the page in Chromium, each time in a new browser: from the call until it is loaded
and two frames are drawn. Seconds of CPU are those of all its processes, which a busy machine changes less. It needs
Linux, Chromium and playwright (extra `dev`).
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from result_files import RESULTS, environment, hardware, write_result

from engine.datasets.dataset import open_dataset
from engine.report import write_report
from engine.settings.report import SHOWN
from engine.types import ImageKey, Sample

LASTS = "minutes"
RESULT = RESULTS / "report_page.json"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRAWN = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
"""Resolves once what is there now has been drawn."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--px", type=int, default=192, help="side of the images")
    parser.add_argument("--opened", type=int, default=5, help="times that the page is opened")
    parser.add_argument("--keep", type=Path, help="also copy the page here")
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "set"
        write_set(folder, chosen.images, chosen.classes, chosen.px)
        began = time.monotonic()
        page = write_report([folder])
        seconds = time.monotonic() - began
        version, opened, cpu = opening(page, chosen.opened)
        result = {
            "settings": {
                name: getattr(chosen, name) for name in ("images", "classes", "px", "opened")
            }
            | {"shown": SHOWN},
            "environment": environment("cpu"),
            "hardware": hardware("cpu"),
            "browser": version,
            "page": {
                "bytes": page.stat().st_size,
                "write_seconds": round(seconds, 1),
                "open_seconds": round(median(opened), 3),
                "slowest_open_seconds": round(max(opened), 3),
                "open_cpu_seconds": round(median(cpu), 3),
            },
        }
        if chosen.keep:
            shutil.copy(page, chosen.keep)
    write_result(chosen.out, result)
    print(result["page"])


def write_set(folder: Path, images: int, classes: int, px: int) -> None:
    """Write a data set, of which a seeded classifier takes a fifth of the images for other classes."""
    labels = {number: f"class {number}" for number in range(classes)}
    rng = np.random.default_rng(0)
    with open_dataset(folder, {"seed": 0}, labels) as writer:
        for place in range(images):
            index, number = divmod(place, classes)
            seen = int(rng.integers(classes)) if rng.random() < 0.2 else number
            logits = torch.from_numpy(rng.standard_normal(classes)).float()
            logits[seen] += 8
            writer.add(
                Sample(
                    key=ImageKey(number, index),
                    label=labels[number],
                    seed=place,
                    prompt=f"a photograph of a {labels[number]}",
                    token="",
                    image=texture(rng, px),
                    logits=logits,
                    l_bn=float(rng.uniform(1, 20)),
                    confidence=float(logits.softmax(0)[number]),
                    group="",
                )
            )
        writer.finish({"seconds": 0.0})


def texture(rng: np.random.Generator, px: int) -> torch.Tensor:
    """(3, px, px) in [0, 1]: noise of amplitude 1/f whose channels mostly go together, as in photographs."""
    frequency = np.hypot(np.fft.fftfreq(px)[:, None], np.fft.rfftfreq(px)[None])
    frequency[0, 0] = np.inf
    noise = np.fft.rfft2(rng.standard_normal((4, px, px))) / frequency
    grey, *colours = np.fft.irfft2(noise, s=(px, px))
    pixels = np.stack([grey + 0.3 * colour for colour in colours])
    return torch.from_numpy(0.5 + 0.2 * pixels / pixels.std()).float().clamp(0, 1)


def opening(page: Path, times: int) -> tuple[str, list[float], list[float]]:
    """The browser's version, and the seconds and seconds of CPU that each new one took to show the page."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        raise SystemExit(f"there is no browser, expected one of {', '.join(BROWSERS)}: install it.")
    seconds, cpu = [], []
    with sync_playwright() as driver:
        for _ in range(times):
            browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
            tab = browser.new_page(viewport={"width": 1360, "height": 1000})
            before, began = cpu_seconds(), time.monotonic()
            tab.goto(page.as_uri(), wait_until="load")
            tab.evaluate(DRAWN)
            seconds.append(time.monotonic() - began)
            cpu.append(cpu_seconds() - before)
            version = browser.version
            browser.close()
    return f"Chromium {version}", seconds, cpu


def cpu_seconds() -> float:
    """What all processes that this one began have taken of the CPU so far."""
    ticks: dict[int, list[tuple[int, int]]] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        ticks.setdefault(int(fields[1]), []).append(
            (int(place.parent.name), int(fields[11]) + int(fields[12]))
        )
    total, waiting = 0, [os.getpid()]
    while waiting:
        children = ticks.get(waiting.pop(), [])
        total += sum(number for _, number in children)
        waiting += [process for process, _ in children]
    return total / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
