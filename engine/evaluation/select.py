"""Keep the better part of a data set: generate more than is needed, then select, class by class.

Images that the classifier takes for another class go first. Then, by `Selection.by`:

energy       E = -logsumexp(logits) is high: the classifier has seen little like it (GenQ, arXiv 2312.05272)
l_bn         the image's own L_BN is high
l_bn_share   without it, L_BN of the moments of *all* images that are left falls most: one is taken out at a time
"""

from collections.abc import Collection, Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.classifiers import Classifier, load_classifier
from engine.datasets.dataset import ImageFile, load_sample, open_dataset, read_dataset
from engine.datasets.manifest import Row
from engine.datasets.run_record import RUN, made_with, read_run
from engine.errors import ConfigError, MissingExtraError, ModelError, check_type
from engine.evaluation.l_bn_share import kept_by_share, selecting_statistics
from engine.evaluation.quotas import is_recognised, quotas
from engine.events import SILENT, Events
from engine.facts import SELECTED_FROM
from engine.image_key import ImageKey
from engine.settings import Selection


def select(
    folder: Path | str,
    out: Path | str,
    selection: Selection = Selection(),
    classifier: Classifier | None = None,
    events: Events = SILENT,
) -> dict[str, Any]:
    """Copy the better images of a finished data set into a new one; file names stay the same.

    Args:
        folder: the data set to choose from.
        out: the new data set.
        selection: how many images to keep, and by what criterion.
        classifier: the classifier that `folder` was made with. It is needed only for `l_bn_share`, and by default
            loaded from the source that the folder names.
        events: receives progress reports.

    Returns:
        A dictionary of JSON values: the number of images before and after, and how many of each the classifier
            recognises.

    Raises:
        ConfigError: the classifier is a different one, or none can be loaded.
        OutputError: `folder` is not finished, or `out` cannot be written.
    """
    folder, out = _apart(folder, out)
    files, rows, kept = _chosen(folder, selection, classifier)
    made = selected_from(read_run(folder).made, selection)
    return _written(out, made, files, rows, kept, events)


def chosen(
    folder: Path | str, selection: Selection = Selection(), classifier: Classifier | None = None
) -> list[ImageKey]:
    """The images that `select` would keep. Nothing is written; classifier and errors are as for `select`."""
    _, rows, kept = _chosen(Path(folder).expanduser(), selection, classifier)
    return [rows[place].key for place in kept]


def select_by_hand(
    folder: Path | str,
    out: Path | str,
    images: Collection[ImageKey],
    events: Events = SILENT,
) -> dict[str, Any]:
    """As `select`, for images that somebody chose. Raises ConfigError for none, and for one that is not there."""
    folder, out = _apart(folder, out)
    files, rows = map(list, zip(*read_dataset(folder), strict=True))
    missing = set(images) - {row.key for row in rows}
    if not images or missing:
        lacks = f"{len(missing)} that {folder} lacks" if missing else "none"
        raise ConfigError(
            f"the chosen images are {lacks}, expected at least one, and each of the folder: choose again."
        )
    kept = [place for place, row in enumerate(rows) if row.key in images]
    names = [f"{rows[place].class_index}.{rows[place].index}" for place in kept]
    made = {
        SELECTED_FROM: dict(read_run(folder).made),
        "selection": {"by": "hand", "images": names},
    }
    return _written(out, made, files, rows, kept, events)


def _chosen(
    folder: Path, selection: Selection, classifier: Classifier | None
) -> tuple[list[ImageFile], list[Row], list[int]]:
    """All images of a folder, and the places of those that are kept."""
    files, rows = map(list, zip(*read_dataset(folder), strict=True))
    if selection.by == "l_bn_share":
        classifier = classifier or classifier_of(folder)
        _check_classifier(folder, classifier)
    return files, rows, _kept(files, rows, selection, classifier)


def _apart(folder: Path | str, out: Path | str) -> tuple[Path, Path]:
    """Both paths, without ~. Raises ConfigError where they are the same."""
    for name, path in (("folder", folder), ("out", out)):
        check_type(name, path, str | Path, "the path of a folder")
    folder, out = Path(folder).expanduser(), Path(out).expanduser()
    if out.resolve() == folder.resolve():
        raise ConfigError(f"out is {folder} itself, expected another folder: name a new one.")
    return folder, out


def _written(
    out: Path,
    made: Mapping[str, Any],
    files: Sequence[ImageFile],
    rows: Sequence[Row],
    kept: Sequence[int],
    events: Events,
) -> dict[str, Any]:
    """Write the images at some places into the data set `out`. Returns what `select` does."""
    labels = {rows[place].class_index: rows[place].label for place in kept}
    with (
        open_dataset(out, made, labels) as writer,
        events.task("images kept", len(kept)) as task,
    ):
        for place in kept:
            writer.add(load_sample(files[place], rows[place]))
            task.progress()
        writer.finish({})
    return {
        "folder": str(out),
        "images": len(rows),
        "kept": len(kept),
        "recognised": sum(map(is_recognised, rows)),
        "recognised_kept": sum(is_recognised(rows[place]) for place in kept),
    }


def selected_from(made: Mapping[str, Any], selection: Selection) -> dict[str, Any]:
    """What `run.json` says of a selection from a data set of which it says `made`."""
    return {SELECTED_FROM: dict(made), "selection": vars(selection)}


def classifier_of(folder: Path | str, **options: Any) -> Classifier | None:
    """The classifier that a data set was made with, by the name in its record; None where that names no such one.

    options: what `load_classifier` takes besides the name.
    """
    if not (Path(folder) / RUN).exists():
        return None
    named = made_with(Path(folder)).get("classifier", {})
    try:
        found = load_classifier(str(named.get("name")), **options)
    except (ModelError, ConfigError, MissingExtraError):
        return None
    return found if found.fingerprint == named.get("fingerprint") else None


def _kept(
    files: Sequence[ImageFile],
    rows: Sequence[Row],
    selection: Selection,
    classifier: Classifier | None,
) -> list[int]:
    """Places of the images that stay, in the data set's order."""
    if selection.by == "l_bn_share" and classifier is not None:
        return kept_by_share(files, rows, selection, classifier)
    badness = _badness(rows, selection)
    quota = quotas([row.class_index for row in rows], selection.keep)
    order = sorted(
        range(len(rows)),
        key=lambda place: (selection.agreement and not is_recognised(rows[place]), badness[place]),
    )
    kept = []
    for place in order:
        if quota[rows[place].class_index] > 0:
            quota[rows[place].class_index] -= 1
            kept.append(place)
    return sorted(kept)


def _badness(rows: Sequence[Row], selection: Selection) -> list[float]:
    """What is high for an image that should go."""
    if selection.by == "energy":
        return [-float(np.logaddexp.reduce(row.logits)) for row in rows]
    if selection.by == "l_bn":
        if any(isnan(row.l_bn) for row in rows):
            raise ConfigError(
                "selection by 'l_bn' found images without one, expected it in each row of the manifest: the "
                "classifier that they were made with has no statistics. Select by 'energy'."
            )
        return [row.l_bn for row in rows]
    return torch.rand(
        len(rows), generator=torch.Generator().manual_seed(selection.selection_seed)
    ).tolist()


def _check_classifier(folder: Path, classifier: Classifier | None) -> None:
    named = made_with(folder).get("classifier", {})
    if classifier is None:
        raise ConfigError(
            f"selection by 'l_bn_share' got no classifier, expected {named.get('name')!r}, which {folder} was made "
            "with: name it, or select by 'energy' or 'l_bn', which the manifest knows."
        )
    if named.get("fingerprint") != classifier.fingerprint:
        raise ConfigError(
            f"{folder} was made with the classifier {named.get('name')!r} and {classifier.name!r} is another, "
            f"expected the same: see 'classifier' in its {RUN}."
        )
    selecting_statistics(classifier)
