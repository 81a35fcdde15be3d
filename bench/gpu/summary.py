"""The results of `python bench/gpu` on one screen."""

from collections.abc import Iterator, Mapping
from textwrap import wrap
from typing import Any

from gpu.claims import claims, provenance

LINES = 30
WIDTH = 160


def summary(results: Mapping[str, Any]) -> str:
    """At most LINES lines: where it ran, each claim that was measured, how the parts ended, and what failed."""
    lines = [*provenance(results)]
    if results["device"] == "cpu":
        lines.append("A dry run: its sizes and times say nothing, and no claim is read from them.")
    found = claims(results)
    measured = [claim for claim in found if claim.reached != "not measured"]
    for claim in measured:
        goal = f", {claim.goal}: {claim.verdict}" if claim.goal else ""
        lines.append(f"{claim.name}{goal}: {claim.reached}")
    lines.append(f"not measured: {len(found) - len(measured)} of {len(found)} claims")
    ends = "; ".join(f"{name} {how}" for name, how in results["parts"].items())
    lines += wrap(ends, WIDTH)
    failed = list(failures(results))
    room = max(0, LINES - len(lines) - 1)
    more = "" if len(failed) <= room else f", of which these are the first {room}"
    lines.append(f"rows that failed: {len(failed)}{more}")
    lines += failed[:room]
    return "\n".join(line[:WIDTH] for line in lines[:LINES]) + "\n"


def failures(results: Mapping[str, Any]) -> Iterator[str]:
    """Every row that failed or holds something that did, at any depth: 'part | row | why'."""
    for part, rows in results.items():
        if isinstance(rows, dict) and part != "parts":
            for name, row in rows.items():
                for words in _reasons(row):
                    yield f"{part} | {name} | {words}"


def _reasons(row: object) -> Iterator[str]:
    if not isinstance(row, dict):
        return
    for key, value in row.items():
        if key in ("error", "failed", "out_of_memory") and isinstance(value, str):
            yield value
        else:
            yield from _reasons(value)
