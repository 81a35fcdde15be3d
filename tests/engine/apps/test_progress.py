"""How far a task is, where no terminal shows bars."""

import pytest

from engine.apps import progress
from engine.apps.progress import Screen, watching
from engine.events import Finished, Progressed, Started


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock: what its one entry holds."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, ["images: 30 of 100 (cat)", "images: 90 of 100", "images: 100 of 100"]),
        ({"quiet": True}, []),
        ({"silent": True}, []),
    ],
)
def test_without_a_terminal_a_task_says_once_a_minute_how_far_it_is(
    options: dict[str, bool],
    said: list[str],
    seconds: list[float],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with watching(Screen(**options)) as events:
        events.emit(Started("images", 100, 10))
        for moment, units, detail in [
            (5, 10, "dog"),
            (61, 10, "cat"),
            (100, 10, ""),
            (122, 50, ""),
            (125, 10, ""),
        ]:
            seconds[0] = moment
            events.emit(Progressed("images", units, detail))
        events.emit(Finished("images", 100))
    assert capsys.readouterr().err.splitlines() == said


def test_a_task_of_unknown_length_says_what_is_done(
    seconds: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with watching(Screen()) as events:
        events.emit(Started("images", None))
        seconds[0] = 61
        events.emit(Progressed("images", 1234))
    assert capsys.readouterr().err == "images: 1,234\n"
