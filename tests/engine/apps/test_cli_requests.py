"""What commands carry out is what their request says."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.apps.cli import requests
from engine.classifiers import Classifier
from engine.events import SILENT
from engine.request import ClassifierSource, Execution, Request
from engine.runners.local import LocalRunner


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_folder_is_made_as_the_request_says_but_of_all_classes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, classifier: Classifier, dtype: str
) -> None:
    """Also in its own precision, for which the classifier is loaded again."""
    seen: list[tuple[LocalRunner, Request]] = []
    monkeypatch.setattr(
        LocalRunner, "run", lambda runner, asked: seen.append((runner, asked)) or iter(())
    )
    request = Request(
        classifier=ClassifierSource(source="embedded:photo"),
        student=ClassifierSource(source="arch:resnet18"),
        classes=("dog",),
        images_per_class=3,
        seed=5,
        dtype=dtype,
    )
    call = SimpleNamespace(events=SILENT)
    requests.write_folder(request, Execution(), classifier, tmp_path, call)
    ((runner, asked),) = seen
    assert asked == replace(request, classes=None, student=None)
    assert runner.given.classifier is (classifier if dtype == "float32" else None)
    assert str(runner.out) == str(tmp_path)
