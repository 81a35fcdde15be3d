"""Each promise of docs/scale.md names a test that is there."""

import re
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "scale.md").read_text()


def test_each_fault_names_tests_that_exist() -> None:
    rows = [
        row
        for table in PAGE.split("| fault | what happens | shown by |\n")[1:]
        for row in _rows(table)
    ]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`(?:tests/[\w/]*/)?(test_\w+\.py)(?:::(\w+))?`", row)
        assert named, row
        for file, name in named:
            assert name, f"{file} is a file, expected one of its tests: {row}"
            texts = [path.read_text() for path in (ROOT / "tests").rglob(file)]
            assert sum(f"def {name}(" in text for text in texts) == 1, f"{file} has no {name}"


def _rows(table: str) -> list[str]:
    """The lines of a table's body, up to the first that is none of it."""
    return list(takewhile(lambda line: line.startswith("| "), table.splitlines()[1:]))
