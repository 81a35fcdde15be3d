"""A runner that is registered carries runs out: for `generate`, for a record made again, and for the command line."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from engine.apps.cli import main
from engine.errors import ConfigError
from engine.events import Events
from engine.methods.models import Given
from engine.request import Execution, Request
from engine.runners.generate import generate, generate_again
from engine.runners.local import LocalRunner
from engine.runners.registry import RUNNERS, runner_class, runner_for
from engine.settings import Sampling
from engine.types import Sample

SHORT = Sampling(steps=2, batch=4)


class OfOnesOwn:
    """Notes what it is asked for, and leaves the work to the runner of this process."""

    ran: ClassVar[list[Request]] = []

    def __init__(
        self,
        out: str | Path | None,
        execution: Execution,
        events: Events,
        given: Given,
        expected: Mapping[str, Any] | None,
    ) -> None:
        self.inner = LocalRunner(out, execution, events, given, expected)

    def run(self, request: Request) -> Iterator[Sample]:
        self.ran.append(request)
        return self.inner.run(request)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """What the runner `noting`, registered for this test, was asked to carry out."""
    requests: list[Request] = []
    monkeypatch.setitem(RUNNERS, "noting", f"{__name__}:{OfOnesOwn.__name__}")
    monkeypatch.setattr(OfOnesOwn, "ran", requests)
    return requests


def test_a_registered_runner_is_chosen_by_its_name(
    ran: list[Request], classifier_folder: Path, small_prior_folder: Path, tmp_path: Path
) -> None:
    models = (classifier_folder, small_prior_folder, ["dog"], 1)
    options = {"sampling": SHORT, "device": "cpu"}
    own = list(
        generate(*models, **options, runner="noting", out=tmp_path / "own")  # type: ignore[arg-type]
    )
    local = list(generate(*models, **options))  # type: ignore[arg-type]
    assert own[0].image.equal(local[0].image)
    assert len(ran) == 1
    again = generate_again(
        tmp_path / "own", tmp_path / "again", Execution(device="cpu", runner="noting")
    )
    assert len(list(again)) == 1
    assert len(ran) == 2
    files = [next((tmp_path / name).rglob("*.png")).read_bytes() for name in ("own", "again")]
    assert files[0] == files[1]


def test_the_command_line_chooses_a_runner(
    ran: list[Request],
    classifier_folder: Path,
    small_prior_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = [
        *("generate", "--classifier", str(classifier_folder), "--prior", str(small_prior_folder)),
        *("--classes", "dog", "--images-per-class", "2", "--steps", "2", "--device", "cpu"),
        *("--out", str(tmp_path / "set"), "--quiet"),
    ]
    assert main([*asked, "--runner", "notin"]) == 2
    error = capsys.readouterr().err
    assert "--runner is 'notin', expected one of 'local'" in error
    assert "Did you mean 'noting'?" in error
    assert not (tmp_path / "set").exists()
    assert main([*asked, "--runner", "noting"]) == 0
    assert [request.classes for request in ran] == [("dog",)]
    assert len(list((tmp_path / "set").rglob("*.png"))) == 3  # and the contact sheet


def test_runners_are_found_by_name() -> None:
    assert runner_class("local") is LocalRunner
    assert all(callable(runner_class(name).run) for name in RUNNERS)
    with pytest.raises(ConfigError, match=r"runner is 'locl', .* Did you mean 'local'\?"):
        runner_class("locl")


def test_the_users_home_is_meant_by_its_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    for out, expected in (("~/set", "/home/somebody/set"), ("s3://some/~set", "s3://some/~set")):
        assert str(runner_for(Execution(share="1/2"), out).out) == expected
