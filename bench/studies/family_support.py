"""What each family of priors can do, as the tests of tiny pipelines show it: the first table of docs/priors.md.

    python bench/studies family_support     runs the tests that are marked `shows(column)`, two minutes of a CPU core

A cell holds the names of the tests that passed for a family, none where they do not apply. It needs no quiet machine.
"""

import argparse
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from result_files import RESULTS, environment, write_result

LASTS = "minutes"
RESULT = RESULTS / "family_support.json"
TESTS = Path(__file__).resolve().parents[2] / "tests" / "engine" / "priors"
MARK = "shows"


class Recorder:
    """A plugin of pytest that runs marked tests alone, and keeps which passed.

    rows: by family and column, the names of tests. failed: the tests that did not pass.
    """

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, set[str]]] = {}
        self.failed: list[str] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.get_closest_marker(MARK)]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, Any, Any]:
        report = yield
        if report.failed:
            self.failed.append(item.nodeid)
        if report.when == "call" and report.passed:
            for column, family, test in shown(item):
                self.rows.setdefault(family, {}).setdefault(column, set()).add(test)
        return report


def shown(item: Any) -> Iterator[tuple[str, str, str]]:
    """What a test shows: a column, the name of its family, and the test's own name."""
    for mark in item.iter_markers(MARK):
        family = mark.kwargs.get("family") or item.callspec.params["family"].name
        yield mark.args[0], family, item.originalname


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--tests", type=Path, default=TESTS)
    chosen = parser.parse_args(arguments)
    recorder = Recorder()
    pytest.main(["-q", "-p", "no:cacheprovider", str(chosen.tests)], plugins=[recorder])
    if recorder.failed or not recorder.rows:
        raise SystemExit(
            f"{len(recorder.failed)} tests failed and {len(recorder.rows)} families were seen, expected all to pass: "
            f"{', '.join(recorder.failed[:5])}. The table stays as it is."
        )
    rows = {
        family: {column: sorted(tests) for column, tests in row.items()}
        for family, row in recorder.rows.items()
    }
    write_result(chosen.out, {"environment": environment("cpu"), "rows": rows})


if __name__ == "__main__":
    main()
