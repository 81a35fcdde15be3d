"""Numbers without sense, devices of another kind, empty names: one line that names the flag, and no work is begun."""

import resource
from pathlib import Path

import pytest

from engine.apps.cli import main
from engine.apps.cli.registry import COMMANDS
from engine.errors import ConfigError
from engine.memory.plan import plan

HUGE = "1000000000"
CLASSIFIER = ("--classifier", "embedded:photo")
BEFORE_WORK = [
    ("generate", (*CLASSIFIER, "--out", "out"), "--images-per-class", HUGE, "at most 10000000"),
    ("generate", (*CLASSIFIER, "--out", "out"), "--batch", HUGE, "at most 4096"),
    (
        *("generate", (*CLASSIFIER, "--out", "out", "--method", "deepinversion")),
        *("--deepinversion.batch", HUGE, "at most 4096"),
    ),
    ("plan", CLASSIFIER, "--batch", HUGE, "at most 4096"),
    ("learn-tokens", (*CLASSIFIER, "--out", "t"), "--learning.images-per-epoch", HUGE, "at most"),
    ("learn-lora", (*CLASSIFIER, "--out", "l"), "--lora.rank", HUGE, "at most 4096"),
    ("distill", ("set", *CLASSIFIER, "--out", "d"), "--stream", HUGE, "at most 1000000"),
    ("evaluate", ("set",), "--resamples", HUGE, "at most 100000"),
    ("doctor", ("embedded:photo",), "--images-each", HUGE, "at most 1000"),
    ("generate", (*CLASSIFIER, "--out", "out"), "--device", "mps", "'cpu', 'cuda' or"),
    ("generate", (*CLASSIFIER, "--out", "out"), "--device", "meta", "'cpu', 'cuda' or"),
    ("plan", CLASSIFIER, "--device", "mps", "'cpu', 'cuda' or"),
    ("learn-tokens", (*CLASSIFIER, "--out", "t"), "--device", "xpu:0", "'cpu', 'cuda' or"),
    ("fit", ("set", "--out", "f"), "--device", "mps", "'cpu', 'cuda' or"),
]
WITHIN = [
    ("plan", CLASSIFIER, "--image-px", "1000000000", "at most 16384: no prior"),
    ("plan", CLASSIFIER, "--memory", f"{HUGE}{HUGE}GB", "at most 1125899.91GB, more than any"),
    ("profile", CLASSIFIER, "--images", HUGE, "at most 4096"),
    ("distill", ("set", *CLASSIFIER, "--out", "d"), "--images-per-class", HUGE, "at most 10000000"),
]
"""What is known to be wrong only once the prior or the classifier is."""


def the_line(capsys: pytest.CaptureFixture[str]) -> str:
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize(("name", "words", "flag", "value", "expected"), BEFORE_WORK)
def test_a_value_without_sense_is_refused_before_any_work(
    name: str,
    words: tuple[str, ...],
    flag: str,
    value: str,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def begun(self: object, call: object) -> None:
        raise AssertionError(f"{name} began")

    monkeypatch.setattr(COMMANDS[name], "run", begun)
    assert main([name, *words, flag, value]) == 2
    said = the_line(capsys)
    assert said.startswith(f"error: {flag} is ")
    assert value in said
    assert expected in said


@pytest.mark.parametrize(("name", "words", "flag", "value", "expected"), WITHIN)
def test_a_size_that_no_memory_holds_is_refused_without_taking_any(
    name: str,
    words: tuple[str, ...],
    flag: str,
    value: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert main([name, *words, flag, value, "--quiet"]) == 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # kilobytes
    said = the_line(capsys)
    assert said.startswith(f"error: {flag} is ")
    assert expected in said
    assert list(tmp_path.iterdir()) == []


def test_a_plan_for_a_device_of_another_kind_is_refused_in_python_too() -> None:
    with pytest.raises(ConfigError, match="device is 'mps', expected 'cpu', 'cuda' or"):
        plan("embedded", "embedded:photo", device="mps")


@pytest.mark.parametrize(
    "words",
    [
        ("generate", *CLASSIFIER, "--out", ""),
        ("generate", *CLASSIFIER, "--out", "out", "--ray", ""),
        ("learn-tokens", *CLASSIFIER, "--out", ""),
        ("fit", "set", "--out", ""),
        ("generate", "--classifier", "", "--out", "out"),
        ("report", ""),
        ("report", "set", "--out", ""),
        ("export-onnx", *CLASSIFIER, "--out", ""),
    ],
    ids=" ".join,
)
def test_an_empty_name_is_refused(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words]) == 2
    said = the_line(capsys)
    assert " is empty, expected " in said
    assert " expected use " not in said
    may_be_left_out = words[-2] == "--ray" or (words[0] == "report" and words[1])
    assert ("or leave the option out" in said) == bool(may_be_left_out)
