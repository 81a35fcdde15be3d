"""The demo on the models that ship: rows on the same seeds, a report, a sheet and a curve."""

import json
from pathlib import Path

import pytest
from PIL import Image

from engine.apps import demo as demo_module
from engine.apps.cli.commands.demo import _as_fast
from engine.apps.demo import ROWS, demo
from engine.embedded.judge import load_judge
from engine.errors import ModelError
from engine.events import Event, Events, Stepped
from engine.runners.tune import PROMPTS
from engine.settings import Sampling

STEPS = 20
"""In fewer, the last moves may overshoot."""


def test_the_demo_writes_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_module, "Sampling", lambda: Sampling(steps=STEPS))
    monkeypatch.setattr(demo_module, "TRIED_IMAGES", 1)
    steps: list[int] = []

    def watch(event: Event) -> None:
        if isinstance(event, Stepped):
            steps.append(event.images)

    report = demo(tmp_path / "demo", "cartoon", images_per_class=1, events=Events(watch))
    assert (*report["rows"],) == ROWS
    assert report["tokens"] == ["dog", "giraffe", "horse"]
    assert report["prompt"] == "a cartoon of {a} {class}"
    assert sum(steps) == (len(ROWS) + len(PROMPTS)) * 7 * STEPS
    assert report == json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert all(row["images"] == 7 for row in report["rows"].values())
    found = {row: values["l_bn"] for row, values in report["rows"].items()}
    assert found["CAT"] != found["plain"]
    assert max(found["DAG"], found["DAG, tuned prompt"]) < found["plain"]
    part = report["guidance_by_classifier"]
    assert min(part["fused_ms"], part["hooks_ms"]) > 0
    assert part["speedup"] == pytest.approx(part["hooks_ms"] / part["fused_ms"], abs=6e-4)
    for name in ("contact_sheet.png", "l_bn.png"):
        with Image.open(tmp_path / "demo" / name) as picture:
            assert min(picture.size) > 300


@pytest.mark.parametrize(
    ("fused", "hooks", "said"),
    [
        (252, 248, "about as fast"),
        (100, 104, "about as fast"),
        (100, 150, "1.50 times as fast"),
        (100, 80, "0.80 times as fast"),
    ],
)
def test_the_two_times_are_compared_as_they_are_printed(
    fused: float, hooks: float, said: str
) -> None:
    assert _as_fast(fused, hooks) == said


def test_a_domain_without_shipped_tokens_is_told_how_to_learn_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_module, "EMBEDDED", tmp_path)
    with pytest.raises(
        ModelError, match=r"no shipped tokens in .*tokens, expected them .* set `learn`"
    ):
        demo(tmp_path / "demo", "cartoon")


def test_a_classifier_without_tokens_has_no_rows_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_module, "Sampling", lambda: Sampling(steps=2))
    monkeypatch.setattr(demo_module, "TRIED_IMAGES", 1)
    report = demo(tmp_path / "demo", "photo", 1)
    assert list(report["rows"]) == ["plain", "DAG", "DAG, tuned prompt"]
    assert report["tokens"] == []


def test_the_judge_brings_features_of_real_images_of_every_domain() -> None:
    judge = load_judge()
    assert judge.reference.shape == (3001, 192)
    assert judge.reference.isfinite().all()
    assert [(judge.reference_domains == number).sum().item() for number in range(4)] == [
        614,
        704,
        503,
        1180,
    ]
    assert len(judge.classes) == 7
