"""Arguments of another kind than a public function takes are refused by name, before anything is loaded or written."""

from collections.abc import Callable
from pathlib import Path

import pytest

import engine
from engine.errors import ConfigError

PHOTO = "embedded:photo"
REFUSED: list[tuple[Callable[..., object], tuple, dict, str]] = [
    (engine.generate, (None,), {}, "classifier is of type NoneType, expected a source"),
    (engine.generate, (PHOTO, 3), {}, "prior is of type int, expected a source"),
    (engine.generate, (PHOTO, "embedded", 3), {}, "classes is of type int, expected a list"),
    (engine.generate, (PHOTO,), {"tokens": 3}, "tokens is of type int, expected the path of"),
    (engine.generate, (PHOTO,), {"student": 3}, "student is of type int, expected a source"),
    (engine.generate, (PHOTO,), {"cluster": "auto"}, "cluster is of type str, expected a Cluster"),
    (engine.generate, (PHOTO,), {"device": 3}, "device is '3', expected 'cpu'"),
    (engine.generate, (PHOTO,), {"runner": 3}, "runner is '3', expected one of 'local'"),
    (engine.generate, (PHOTO,), {"events": print}, "events is of type .*expected Events, such as"),
    (engine.generate, (PHOTO,), {"out": 3}, "out is of type int, expected the path of a folder"),
    (engine.generate_again, (3,), {}, "record is of type int, expected the path of a run.json"),
    (engine.learn_tokens, (3,), {}, "classifier is of type int, expected a source"),
    (engine.learn_tokens, (PHOTO,), {"learning": 3}, "learning is of type int, expected Token"),
    (engine.learn_tokens, (PHOTO,), {"out": 3}, "out is of type int, expected the path of a file"),
    (engine.learn_tokens, (PHOTO,), {"events": print}, "events is of type .*expected Events"),
    (engine.learn_lora, (PHOTO,), {"out": 3}, "out is of type int, expected the path of a file"),
    (engine.tune, (PHOTO,), {"events": print}, "events is of type .*expected Events, such as"),
    (engine.evaluate, (3,), {}, "folder is of type int, expected a path or a list of paths"),
    (engine.evaluate, ([3],), {}, "folder is of type int, expected a path: hand one over"),
    (engine.evaluate, ("x",), {"events": print}, "events is of type .*expected Events, such as"),
    (engine.export_statistics, (PHOTO, 3, "x"), {}, "images is of type int, expected the path of"),
    (engine.select, (3, "x"), {}, "folder is of type int, expected the path of a folder"),
    (engine.write_report, (3,), {}, "folders is of type int, expected a path or a list of paths"),
    (engine.write_report, ([3],), {}, "folder is of type int, expected a path: hand one over"),
    (engine.fit, ("x", 3), {}, "out is of type int, expected the path of a folder"),
    (engine.distill, ("x", PHOTO), {"out": "y", "events": print}, "events is of type .*Events"),
    (engine.load_classifier, (PHOTO,), {"reads": {"mean": 0.5}}, "reads is of type dict, expected"),
    (engine.load_classifier, (PHOTO,), {"statistics": 3}, "statistics is '3', expected one of"),
]


@pytest.mark.parametrize(
    ("function", "given", "named", "wording"),
    REFUSED,
    ids=[f"{one.__name__}-{wording.split()[0]}" for one, _, _, wording in REFUSED],
)
def test_arguments_of_another_kind_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: Callable[..., object],
    given: tuple,
    named: dict,
    wording: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=wording):
        function(*given, **named)
    assert not list(tmp_path.iterdir())
