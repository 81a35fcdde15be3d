"""Each promise of docs/scale.md names a test that is there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "scale.md").read_text()


def test_each_fault_names_tests_that_exist() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and ".py" in line]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`(?:tests/[\w/]*/)?(test_\w+\.py)(?:::(\w+))?`", row)
        assert named, row
        for file, name in named:
            (path,) = (ROOT / "tests").rglob(file)
            assert not name or f"def {name}(" in path.read_text(), f"{file} has no {name}"
