"""The tables of runs that were killed at random moments, and of every other fault."""

from collections import Counter
from typing import Any

from reports.markdown import table

HEADER = [
    "what is killed",
    "kills",
    "runs to the end",
    "with the bytes of an uninterrupted run",
    "files found half-written",
    "temporary files left",
]


def reliability_table(result: dict) -> str:
    """The study `reliability`."""
    rows = [
        [
            f"`{name}`" if name != "share" else "`generate --share`",
            f"{row['kills']}",
            f"{row['runs']}",
            f"{row['equal']}",
            f"{len(row['half_written'])}",
            f"{row['leftovers']}",
        ]
        for name, row in result["rows"].items()
        if "kills" in row
    ]
    return table(HEADER, rows)


FAULTS_HEADER = ["fault", "what was tried", "times", "ended as promised", "wrong"]


def faults_table(result: dict) -> str:
    """The study `faults`, whose rows have names such as 'disk full: generate'.

    Rows of one fault that tried the same with different commands become one.
    """
    alike: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for name, row in result["rows"].items():
        if "tried" in row:
            fault, _, what = name.partition(": ")
            alike.setdefault((fault, row["tried"]), {})[what] = row
    rows = []
    for (fault, tried), found in alike.items():
        names = ": " + ", ".join(f"`{what}`" for what in found) if len(found) > 1 else ""
        ways: Counter[str] = Counter()
        for row in found.values():
            ways.update(row["ways"])
        how = ", ".join(f"{way} {times}" for way, times in ways.items())
        times, promised = (
            sum(row[key] for row in found.values()) for key in ("times", "as_promised")
        )
        rows.append(
            [fault, f"{tried}{names}", f"{times}", f"{promised}: {how}", f"{times - promised}"]
        )
    return table(FAULTS_HEADER, rows)
