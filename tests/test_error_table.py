"""docs/errors.md holds every message of the source, and each says what was wrong, what was expected and what to do."""

import re
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "docs" / "site" / "errors.py"

DONE_BY = {
    *("accept", "add", "ask", "bring", "build", "call", "change", "check", "choose", "close"),
    *("compare", "continue", "convert", "copy", "correct", "delete", "detach", "distil"),
    *(
        "divide",
        "encode",
        "export",
        "fetch",
        "fill",
        "finish",
        "free",
        "fuse",
        "generate",
        "give",
        "guide",
        "hand",
    ),
    *("install", "keep", "learn", "leave", "load", "look", "lower", "make", "measure", "mend"),
    *(
        "merge",
        "move",
        "name",
        "number",
        "open",
        "pass",
        "pick",
        "plan",
        "polish",
        "print",
        "put",
        "raise",
    ),
    *(
        "remove",
        "rename",
        "replace",
        "resize",
        "round",
        "run",
        "sample",
        "save",
        "see",
        "select",
        "set",
    ),
    *("shorten", "start", "take", "train", "try", "use", "wait", "wrap", "write"),
}
"""How the part begins that says what to do."""
ELSEWHERE = {"advice", "remedy", "take", "OURS", "instead"}
"""Placeholders of that part, where it is put together from what was found."""
PASSED_ON = {
    "checkpoint {path} does not fit {architecture}: {error}",
    "{settings} cannot be used: {error} Or set `input_px`, `mean` and `std`, which then replace the file.",
}
"""Messages around another one that has all parts."""
AFTER = re.compile(
    r"(?:[:;,.(]|, or|, and| then| else|else,?) +(?:or |and |in Python )?(\w+|\{\w+\})"
)


@pytest.fixture(scope="module")
def errors() -> Iterator[ModuleType]:
    spec = spec_from_file_location("errors_page", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "errors_page", module)
        spec.loader.exec_module(module)
        yield module


def lacking(text: str) -> list[str]:
    """The parts that a message does not have."""
    if text in PASSED_ON:
        return []
    wrong, word, rest = text.replace("Expected", "expected").partition("expected ")
    if not word and any(f"{{{name}}}" in text for name in ELSEWHERE):
        return []  # both parts are put together
    begins = {found.strip("{}") for found in AFTER.findall(rest)}
    parts = {
        "what was wrong": bool(wrong.strip()),
        "what was expected": bool(word),
        "what to do": any(one.lower() in DONE_BY or one in ELSEWHERE for one in begins)
        or "`ddis " in rest
        or "`pip " in rest,
    }
    return [name for name, there in parts.items() if not there]


@pytest.fixture(scope="module")
def messages(errors: ModuleType) -> list[Any]:
    return errors.messages()


def test_the_page_is_up_to_date(errors: ModuleType, messages: list[Any]) -> None:
    made = errors.page(messages)
    assert errors.PAGE.read_text() == made, "run `python docs/site/errors.py`"


def test_every_message_has_its_three_parts(messages: list[Any]) -> None:
    assert len(messages) > 400
    without = [
        f"{one.where}: {one.text} LACKS {lacking(one.text)}"
        for one in messages
        if lacking(one.text)
    ]
    assert not without, "\n".join(without)


def test_a_message_without_a_part_is_noticed() -> None:
    assert lacking("px is 3, expected at least 8: raise it.") == []
    assert lacking("px is 3, expected at least 8.") == ["what to do"]
    assert lacking("px is 3: raise it.") == ["what was expected", "what to do"]


def test_every_error_that_is_raised_is_in_the_table(errors: ModuleType, tmp_path: Path) -> None:
    """Its words alone are told by the source: written at once, by a name, by a function, with a constant."""
    source = tmp_path / "engine" / "apps" / "new.py"
    source.parent.mkdir(parents=True)
    source.write_text(
        "from engine.errors import ConfigError\n"
        "LIMIT = 'ten'\n"
        "def said(x):\n    return f'{x!r} is no word, expected one: write it.'\n"
        "def one(x):\n    raise ConfigError(f'{len(x)} is too much, expected {LIMIT}: lower it.')\n"
        "def two(x):\n    raise ConfigError(said(x))\n"
        "def three(x):\n    text = 'a' if x else 'b'\n    error = f'{text} is odd, expected none: go.'\n"
        "    return ConfigError(error)\n"
        "class One:\n    def check(x):\n        raise ConfigError('it is one, expected two: add it.')\n"
        "class Two:\n    def check(x):\n        raise ConfigError('it is two, expected one: drop it.')\n"
    )
    (tmp_path / "kernels" / "ddis_kernels").mkdir(parents=True)
    errors_file = tmp_path / "engine" / "errors.py"
    errors_file.write_text("class ConfigError(EngineError, ValueError): ...\n")
    assert {one.text for one in errors.messages(tmp_path)} == {
        "{number} is too much, expected ten: lower it.",
        "{x} is no word, expected one: write it.",
        "{text} is odd, expected none: go.",
        "it is one, expected two: add it.",
        "it is two, expected one: drop it.",
    }
