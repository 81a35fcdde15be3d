"""Events reach their watchers in order, are lines of JSON, and carry the way to stop."""

import json

import pytest

from engine.events import Cancelled, Events, ImageMade, Progressed, Started


def test_watchers_see_each_event_in_order():
    first, second = [], []
    events = Events(first.append, second.append)
    sent = [Started("images", 2), ImageMade(0, 1, "dog", 0.5, 3.25), Progressed("images", 1, "dog")]
    for event in sent:
        events.emit(event)
    assert first == second == sent


def test_an_event_is_a_line_of_json():
    line = ImageMade(0, 1, "chien 🐕", 0.5, 3.25).to_json()
    assert "\n" not in line
    assert json.loads(line) == {
        "event": "image",
        "class_index": 0,
        "index": 1,
        "label": "chien 🐕",
        "confidence": 0.5,
        "l_bn": 3.25,
        "skipped": 0,
    }


def test_what_is_not_a_number_is_null_in_json():
    """JSON has no NaN, which L_BN is where a classifier has no statistics."""
    line = ImageMade(0, 1, "dog", 0.5, float("nan")).to_json()
    assert json.loads(line, parse_constant=lambda word: pytest.fail(word))["l_bn"] is None


def test_a_cancelled_run_ends_at_its_next_event():
    seen = []
    events = Events(seen.append)
    events.emit(Started("images", 2))
    events.cancel()
    assert events.cancelled
    with pytest.raises(Cancelled, match="call the same again to resume"):
        events.emit(Progressed("images", 1))
    assert seen == [Started("images", 2)]
