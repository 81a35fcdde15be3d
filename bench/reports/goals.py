"""What was aimed at beside what was reached: goals.toml, held against results."""

import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from operator import ge, gt, le, lt
from pathlib import Path
from statistics import mean
from typing import Any

from reports.markdown import table
from reports.summaries import summaries

FILE = Path(__file__).with_name("goals.toml")
NOT_MEASURED, NO_TOKENS, OLD = "not measured", "no tokens", "†"

LIMITS: dict[str, Callable[[float, float], bool]] = {
    "at_least": ge,
    "above": gt,
    "at_most": le,
    "below": lt,
    "within": lambda reached, limit: abs(reached) <= limit,
}


@dataclass(frozen=True, kw_only=True)
class Goal:
    """One entry of goals.toml, which explains the fields. path: the measure's."""

    name: str
    file: str
    path: Sequence[str]
    left: Sequence[str]
    show: str
    right: Sequence[str] = ()
    compare: str = "ratio"
    each: str = "domain"
    unit: float = 1
    tokens: bool = False
    overlap: bool = False
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    within: float | None = None

    def __post_init__(self) -> None:
        if (number := sum(getattr(self, name) is not None for name in LIMITS)) != 1:
            raise ValueError(
                f"{self.name} has {number} limits, expected one of {', '.join(LIMITS)}"
            )


@dataclass(frozen=True, kw_only=True)
class Reached:
    """What one comparison of a goal came to. which: the name on its left. tied: intervals overlap, if that counts."""

    left: float
    right: float | None
    reached: float
    which: str
    tied: bool = False


def read_goals(file: Path = FILE) -> list[Goal]:
    """The goals of a file, in its order."""
    found = tomllib.loads(file.read_text())
    return [Goal(path=found["measures"][entry.pop("measure")], **entry) for entry in found["goals"]]


def holds(goal: Goal, reached: float) -> bool:
    """Whether a value reaches the goal."""
    return all(
        held(reached, limit)
        for name, held in LIMITS.items()
        if (limit := getattr(goal, name)) is not None
    )


def reach(goal: Goal, result: Mapping[str, Any], domains: Sequence[str]) -> Reached:
    """What comes off worst of all that a goal compares. Raises KeyError where the result lacks a value."""

    def value(of: str) -> float:
        return mean(_at(goal, result, of, domain) for domain in domains)

    def interval(of: str) -> tuple[float, float]:
        """Of the mean: the ends stand beside the value."""
        low, high = (replace(goal, path=[*goal.path[:-1], end]) for end in ("low", "high"))
        return tuple(
            mean(_at(end, result, of, domain) for domain in domains) for end in (low, high)
        )

    found = []
    for left, right in product(goal.left, goal.right or [None]):
        ours, other = value(left), None if right is None else value(right)
        found.append(
            Reached(
                left=ours,
                right=other,
                reached=_compared(goal, ours, other),
                which=left,
                tied=right is not None
                and goal.overlap
                and _overlap(interval(left), interval(right)),
            )
        )

    def goodness(one: Reached) -> float:
        if goal.within is not None:
            return -abs(one.reached)
        return one.reached if goal.at_most is None and goal.below is None else -one.reached

    return min(found, key=goodness)


def goals_table(
    results: Mapping[str, Mapping[str, Any]], goals: Sequence[Goal], old: Collection[str] = ()
) -> str:
    """A row for each goal: what each domain reached, bold where that is short of it. old: results out of date."""
    results = summaries(results)
    domains = list(dict.fromkeys(name.split("/")[1] for name in results["evidence"]["rows"]))

    def cell(goal: Goal, where: Sequence[str]) -> tuple[str, bool | None]:
        if goal.tokens and not _have_tokens(goal, results[goal.file], where):
            return NO_TOKENS, None
        try:
            found = reach(goal, results[goal.file], where)
        except KeyError:
            return NOT_MEASURED, None
        held, shown = holds(goal, found.reached) or found.tied, goal.show.format(**vars(found))
        return shown if held else f"**{shown}**", held

    rows = []
    for goal in goals:
        if goal.each == "domain":
            found = [cell(goal, [domain]) for domain in domains]
            held = [here for _, here in found if here is not None]
            verdict = f"{sum(held)} of {len(held)}" if held else ""
            cells = [shown for shown, _ in found]
        else:
            shown, here = cell(goal, domains if goal.each == "mean" else [""])
            verdict = {True: "yes", False: "no", None: ""}[here]
            cells = [*[""] * (len(domains) - 1), shown]
        rows.append(
            [goal.name, *cells, f"{verdict} {OLD}" if verdict and goal.file in old else verdict]
        )
    made = table(["goal", *(domain.replace("_", " ") for domain in domains), "reached"], rows)
    if any(row[-1].endswith(OLD) for row in rows):
        made += f"\n\n{OLD} The result is out of date, or a part of it is, as its table below says."
    return made


def _overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def _at(goal: Goal, result: Mapping[str, Any], of: str, domain: str) -> float:
    found: Any = result
    for step in goal.path:
        found = found[step.format(of=of, domain=domain)]
    return found / goal.unit if goal.unit != 1 else found


def _have_tokens(goal: Goal, result: Mapping[str, Any], domains: Sequence[str]) -> bool:
    """Whether what was measured of the methods on the left had tokens; so does what was not measured."""
    rows = [result["rows"].get(f"{of}/{domain}") for of in goal.left for domain in domains]
    return all(row is None or row.get("token_file") for row in rows)


def _compared(goal: Goal, left: float, right: float | None) -> float:
    if right is None:
        return left
    return 100 * (left - right) if goal.compare == "points" else left / right
