"""The table of what families can do says what the tests of today show."""

import ast
import json
from pathlib import Path

import pytest
from reports.study_tables import SUPPORT
from studies import family_support

from tests.engine.priors.conftest import FAMILIES, LCM


def marked() -> set[tuple[str, str]]:
    """Columns and names of all tests that are marked, as their files say."""
    found = set()
    for file in family_support.TESTS.glob("test_*.py"):
        for part in ast.parse(file.read_text()).body:
            for mark in getattr(part, "decorator_list", []):
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.shows":
                    found.add((ast.literal_eval(mark.args[0]), part.name))
    return found


def test_the_committed_result_is_of_all_tests_and_families_of_today() -> None:
    if not family_support.RESULT.exists():
        pytest.skip("not measured yet: `python bench/studies family_support`")
    rows = json.loads(family_support.RESULT.read_text())["rows"]
    shown = {
        (column, test) for row in rows.values() for column, tests in row.items() for test in tests
    }
    assert shown == marked(), "run `python bench/studies family_support` and `make tables`"
    assert {*rows} == {family.name for family in (*FAMILIES, LCM)}
    assert {column for column, _ in shown} == {*SUPPORT}


PASSES = """
import pytest
from types import SimpleNamespace

@pytest.mark.shows("guided")
@pytest.mark.parametrize("family", [SimpleNamespace(name="a"), SimpleNamespace(name="b")])
def test_one(family):
    if family.name == "b":
        pytest.skip("not this one")

@pytest.mark.shows("own loop", family="c")
def test_other():
    assert {value}

def test_without_a_mark():
    assert False
"""


@pytest.mark.parametrize("passes", [True, False])
def test_a_cell_names_the_tests_that_passed_and_a_failure_leaves_the_result(
    passes: bool, tmp_path: Path
) -> None:
    # Of a name of its own: both runs are of one process, which imports a module once.
    file, out = tmp_path / f"test_if_{passes}.py".lower(), tmp_path / "out.json"
    file.write_text(PASSES.replace("{value}", str(passes)))
    arguments = ["--tests", str(file), "--out", str(out)]
    if not passes:
        with pytest.raises(SystemExit, match=r"1 tests failed and 1 families were seen"):
            family_support.main(arguments)
        assert not out.exists()
        return
    family_support.main(arguments)
    assert json.loads(out.read_text())["rows"] == {
        "a": {"guided": ["test_one"]},
        "c": {"own loop": ["test_other"]},
    }
