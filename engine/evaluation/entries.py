"""How a metric stands in a report: its value, the ends of its interval, and what they are between."""

from collections.abc import Callable
from math import inf
from typing import Any

from torch import Tensor

from engine.evaluation.intervals import Interval, counts, mean_interval
from engine.settings import Evaluation

RESAMPLED: dict[str, str | None] = {
    "fid": "images",
    "kid": "images",
    "inception_score": "images",
    "precision": "images",
    "recall": "reference",
    "density": "images",
    "coverage": "reference",
    "prd_precision": None,
    "prd_recall": None,
    "teacher_accuracy": "images",
    "teacher_confidence": "images",
    "l_bn": "images",
    "set_l_bn": None,
}
"""Which set is resampled for a metric's interval, the other one held fixed; None: it has no interval."""

SHARE = (0.0, 1.0)
RANGES = {
    **dict.fromkeys(
        ("precision", "recall", "coverage", "teacher_accuracy", "teacher_confidence"), SHARE
    ),
    **dict.fromkeys(("fid", "density", "l_bn"), (0.0, inf)),
    "inception_score": (1.0, inf),
}
"""Least and greatest value of a metric. KID is not here: unbiased, it may come out below 0."""


def drawn_rows(rows: int, settings: Evaluation) -> Tensor | None:
    """Which rows each resample has, (B, rows); None where no intervals are asked for."""
    return (
        counts(rows, settings.resamples, settings.evaluation_seed) if settings.resamples else None
    )


def entry(
    name: str,
    value: float,
    drawn: Tensor | None = None,
    interval: Callable[[Tensor], Interval] | None = None,
) -> dict[str, Any]:
    """A metric's value and its interval, which ends where the metric's range does."""
    if drawn is None or interval is None:
        return {"value": value, "low": None, "high": None}
    least, most = RANGES.get(name, (-inf, inf))
    low, high = (min(max(end, least), most) for end in interval(drawn))
    return {"value": value, "low": low, "high": high}


def mean_entry(name: str, values: Tensor, drawn: Tensor | None) -> dict[str, Any]:
    """The entry of a metric that is a mean over rows (N,)."""
    return entry(name, values.double().mean().item(), drawn, lambda d: mean_interval(values, d))
