"""The page: overviews and charts put into the template."""

import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from engine.datasets.dataset import has_manifest
from engine.datasets.run_record import RUN, RunRecord
from engine.errors import ConfigError, check_type, counted
from engine.files import read_explained, write_whole
from engine.report import charts
from engine.report.measurements import is_measurement, measurement
from engine.report.overview import DatasetOverview, closing_line, settings_rows
from engine.report.reading import dataset_overview
from engine.settings.report import SHOWN
from engine.urls import check_local

REPORT = "report.html"
COMPARISON = "report.json"
"""What `ddis distill`, `prune` and `quantise` write."""
SCORES = {
    "accuracy": "accuracy",
    "agreement": "agreement with the teacher",
    "kl": "KL to the teacher",
}


def write_report(
    folders: str | Path | Iterable[str | Path], out: str | Path | None = None, images: int = SHOWN
) -> Path:
    """Write one page about data sets, comparisons and measurements, and return where it is.

    Args:
        folders: Finished data sets, folders of `ddis distill`, `prune` and `quantise`, and JSON files of
            `ddis evaluate --out` and `ddis tune --out`, in any mixture.
        out: The file. For a single folder `report.html` in it, for a single file the same name with `.html`.
        images: How many images of a data set the page holds at most.

    Raises:
        ConfigError: No folder, several without `out`, one that is none of these, or no images.
        OutputError: A data set cannot be read.
    """
    check_type("folders", folders, str | Path | Iterable, "a path or a list of paths")
    named = [folders] if isinstance(folders, str | Path) else [*folders]
    for folder in named:
        check_type("folder", folder, str | Path, "a path")
        check_local(folder)
    paths = [Path(folder).expanduser() for folder in named]
    if not paths or (out is None and len(paths) > 1):
        raise ConfigError(
            f"a report of {len(paths)} folders came without out, expected one folder, or the file to write: name it."
        )
    if images < 1:
        raise ConfigError(
            f"images is {images}, expected at least 1: the page shows some of a data set. Raise it."
        )
    unknown = [
        path
        for path in paths
        if not (has_manifest(path) or _is_comparison(path) or is_measurement(path))
    ]
    if unknown:
        if not unknown[0].exists():
            raise ConfigError(
                f"there is no {unknown[0]}, expected a data set or a file of results: check the path."
            )
        raise ConfigError(
            f"{unknown[0]} is nothing that a report is about, expected a folder that `ddis generate`, `distill`, "
            "`prune` or `quantise` wrote, or a .json file of `ddis evaluate --out` or `ddis tune --out`: check the "
            "path."
        )
    sections = [_dataset(dataset_overview(path, images)) for path in paths if has_manifest(path)]
    sections += [
        _comparison(path) for path in paths if _is_comparison(path) and not has_manifest(path)
    ]
    sections += [measurement(path) for path in paths if is_measurement(path)]
    own = paths[0] / REPORT if paths[0].is_dir() else paths[0].with_suffix(".html")
    file = own if out is None else Path(out).expanduser()
    write_whole(file, page(sections).encode())
    return file


def write_own_report(folder: Path) -> str:
    """Write the page of a data set into its folder, and return what a run says at its end."""
    overview = dataset_overview(folder)
    write_whole(folder / REPORT, page([_dataset(overview)]).encode())
    return closing_line(overview)


def page(sections: Sequence[Mapping[str, Any]]) -> str:
    """The page of some sections; of several data sets a table first, which compares them."""
    environment = Environment(
        loader=PackageLoader("engine.report", "."), autoescape=True, trim_blocks=True
    )
    pictures: dict[str, int] = {}  # filled while tiles are rendered, and read after them

    def place(uri: str) -> int:
        return pictures.setdefault(uri, len(pictures))

    environment.filters |= {
        "percent": _percent,
        "number": _number,
        "place": place,
        "counted": counted,
    }
    sets = [section["overview"] for section in sections if section["kind"] == "dataset"]
    evaluations = [section for section in sections if section["kind"] == "evaluation"]
    metrics = dict.fromkeys(one["name"] for section in evaluations for one in section["metrics"])
    return environment.get_template("page.html").render(
        sections=sections,
        sets=sets,
        evaluations=evaluations,
        metrics=[*metrics],
        pictures=pictures,
    )


def _dataset(overview: DatasetOverview) -> dict[str, Any]:
    distances = [one.l_bn for one in overview.images]
    seen = [predicted for _, predicted in overview.confusion]
    labels = [*dict.fromkeys([*(one.label for one in overview.classes), *seen])]
    matrix = charts.matrix(overview.confusion, labels)
    record = overview.record
    return {
        "kind": "dataset",
        "overview": overview,
        "shown": [one for one in overview.images if one.picture],
        "charts": [
            ("Confidence", charts.histogram(_confidences(overview), "confidence", (0, 1))),
            ("L_BN of single images", charts.histogram(distances, "L_BN")),
            *_over_steps(record),
            (
                "Recognised, by class",
                charts.bars({one.label: one.recognised for one in overview.classes}, "recognised"),
            ),
        ],
        "matrix": matrix,
        "confused": [] if matrix else overview.most_confused(),
        "cells": len(labels),
        "repeats": _record_to_repeat(overview),
        "settings": settings_rows(record.made) if record else [],
        "measured": settings_rows({**record.measured, "descended": None}) if record else [],
        "versions": dict(record.versions) if record else {},
    }


def _over_steps(record: RunRecord | None) -> list[tuple[str, str]]:
    """The chart of the objective that guidance or an inversion descended, where a run recorded it."""
    curve = None if record is None else record.measured.get("descended")
    if not curve:
        return []
    images = counted(curve["images"], "image")
    title = f"What was descended: mean of {images}, ± one standard deviation"
    return [(title, charts.over_steps(curve, "L_BN and classes, weighted"))]


def _record_to_repeat(overview: DatasetOverview) -> str:
    """The path of the record that makes a data set again, for a shell; "" where one run did not make it."""
    made = {} if overview.record is None else overview.record.made
    return shlex.quote(f"{overview.folder}/{RUN}") if "request" in made else ""


def _confidences(overview: DatasetOverview) -> list[float]:
    return [one.confidence for one in overview.images]


def _comparison(folder: Path) -> dict[str, Any]:
    report = _read_comparison(folder)
    rows = report["rows"]
    return {
        "kind": "comparison",
        "folder": str(folder),
        "report": report,
        "scores": {key: text for key, text in SCORES.items() if _has(rows, key)},
        "less": "accuracy" if _has(rows, "accuracy") else "agreement",
        "charts": [
            (text, charts.spreads({name: row[key]["values"] for name, row in rows.items()}, text))
            for key, text in SCORES.items()
            if _has(rows, key)
        ],
        "settings": settings_rows(
            {
                key: report[key]
                for key in ("classifier", "student", "distillation", "pruning", "quantisation")
                if key in report
            }
        ),
    }


def _has(rows: Mapping[str, Mapping[str, Any]], score: str) -> bool:
    return all(row.get(score) is not None for row in rows.values())


def _is_comparison(folder: Path) -> bool:
    return (folder / COMPARISON).is_file()


def _read_comparison(folder: Path) -> dict[str, Any]:
    path = folder / COMPARISON
    with read_explained(path):
        content = path.read_bytes()
    try:
        report = json.loads(content)
        report["rows"], report["task"], report["measured_on"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is no report of a comparison ({error!r}), expected one of `ddis distill`, `prune` or `quantise`: "
            "run it again, which finishes at once where its runs are done."
        ) from error
    return report


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _number(value: float) -> str:
    return "" if not math.isfinite(value) else f"{value:.3g}"
