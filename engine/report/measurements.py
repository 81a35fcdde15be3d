"""Sections of a page about the JSON files of `ddis evaluate --out` and `ddis tune --out`."""

import json
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from engine.errors import ConfigError
from engine.files import read_explained
from engine.prompts import PLAIN
from engine.report import charts
from engine.report.overview import settings_rows

NAMES = {
    "fid": "FID",
    "kid": "KID",
    "inception_score": "inception score",
    "prd_precision": "PRD precision",
    "prd_recall": "PRD recall",
    "teacher_accuracy": "classifier's accuracy",
    "teacher_confidence": "classifier's confidence",
    "l_bn": "L_BN of single images",
    "set_l_bn": "L_BN of all images",
}
"""What a page calls metrics; others go by their own names."""
BETTER_LOW = ("fid", "kid", "l_bn", "set_l_bn")
SHARES = (
    *("precision", "recall", "density", "coverage", "prd_precision", "prd_recall"),
    *("teacher_accuracy", "teacher_confidence"),
)
"""Metrics on one axis: shares of images, and density, which is about as large."""
EVALUATION, TUNING = ("metrics", "missing", "resampled"), ("scale", "trials", "alignment")
"""What the two kinds of file hold."""


def is_measurement(path: Path) -> bool:
    """Whether `path` is taken for such a file, by its name."""
    return path.suffix == ".json" and path.is_file()


def measurement(path: Path) -> dict[str, Any]:
    """The section of a file. Raises ConfigError where it is none of the two kinds."""
    with read_explained(path):
        content = path.read_bytes()
    try:
        report = json.loads(content)
        if all(key in report for key in EVALUATION):
            return _evaluation(path, report)
        if all(key in report for key in TUNING):
            return _tuning(path, report)
        found: object = f"it holds {', '.join(list(report)[:5])}"
    except (ValueError, KeyError, TypeError) as error:
        found = repr(error)
    raise ConfigError(
        f"{path} is no report ({found}), expected a file of `ddis evaluate --out` or `ddis tune --out`: check the "
        "path, or write it again."
    )


def _evaluation(path: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    measured = {name: one for name, one in report["metrics"].items() if one}
    shares = {NAMES.get(name, name): measured[name] for name in SHARES if name in measured}
    return {
        "kind": "evaluation",
        "file": str(path),
        "report": report,
        "metrics": [
            {
                "name": NAMES.get(name, name),
                "better": "lower" if name in BETTER_LOW else "higher",
                "resampled": report["resampled"].get(name) or "",
                **one,
            }
            for name, one in measured.items()
        ],
        "missing": [(NAMES.get(name, name), what) for name, what in report["missing"].items()],
        "charts": [("Shares and their intervals", charts.intervals(shares, "share"))]
        if shares
        else [],
        "settings": settings_rows(
            {key: report[key] for key in ("features", "classifier", "domain", "settings")}
        ),
    }


def _command(report: Mapping[str, Any]) -> str:
    """What draws with the settings found, of a report without the models that they were found for."""
    preset, prompt = report.get("preset", "default"), report.get("prompt", PLAIN)
    words = ["ddis", "generate", "..."]
    words += [] if preset == "default" else ["--preset", preset]
    words += [] if prompt == PLAIN else ["--prompt", quote(prompt)]
    return " ".join([*words, "--alignment.scale", f"{report['scale']:g}"])


def _tuning(path: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    trials = report["trials"]
    scales = [trial["scale"] for trial in trials]
    drawn = {
        "Score: the least is chosen": {"score": "score"},
        "L_BN of views": {"l_bn": "L_BN"},
        "Distance of views": {"gap": "log, mean of the layers"},
        "Cross-entropy of views": {"cross_entropy": "cross-entropy"},
        "Recognised": {"recognised": "in the image", "agreement": "in every view"},
    }
    return {
        "kind": "tuning",
        "file": str(path),
        "report": report,
        "command": report.get("command") or _command(report),
        "charts": [
            (
                title,
                charts.over_scales(
                    {text: [trial[key] for trial in trials] for key, text in lines.items()},
                    scales,
                    report["scale"],
                ),
            )
            for title, lines in drawn.items()
            if all(trial.get(key) is not None for trial in trials for key in lines)
        ],
        "settings": settings_rows(report["alignment"]),
    }
