"""One evaluator for every method: a folder of images against a reference, with intervals and both sample sizes."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from engine.classifiers import Classifier, load_classifier
from engine.errors import ConfigError, check_type
from engine.evaluation.compare import NEED_REFERENCE, compared_with, warnings_of
from engine.evaluation.entries import RESAMPLED, drawn_rows, entry, mean_entry
from engine.evaluation.extractors import JUDGE, Extractor, load_extractor
from engine.evaluation.images import Pooled, open_images, open_pool
from engine.evaluation.intervals import LEVEL
from engine.evaluation.statistics import (
    ENDING,
    FeatureStatistics,
    judge_reference,
    measure,
    read_statistics,
    save_statistics,
)
from engine.evaluation.teacher import BY_IMAGE, by_classifier, by_manifest
from engine.events import SILENT, Advance, Events
from engine.files import check_writable
from engine.settings import Evaluation

TASK = "images and resamples"


def evaluate(
    folder: Path | str | Sequence[Path | str],
    reference: Path | str | None = None,
    features: str | Extractor = JUDGE,
    *,
    domain: str | None = None,
    settings: Evaluation = Evaluation(),
    statistics: Path | str | None = None,
    moments_only: bool = False,
    classifier: str | Path | Classifier | None = None,
    device: str | torch.device | None = None,
    inception_weights: Path | None = None,
    events: Events = SILENT,
) -> dict[str, Any]:
    """Compare images with a reference set, and measure what a classifier makes of them.

    Args:
        folder: a data set folder, any folder of images, or a parquet file. Several, such as runs with different
            seeds, are measured as one set.
        reference: a folder of images, a parquet file, a file of saved statistics, or 'judge' for the real images of
            the embedded judge. At least one of reference, statistics and classifier is required.
        features: 'judge', 'classifier:<source>', 'inception', or an Extractor.
        domain: selects rows by domain in parquet files with a `domain` column and among the judge's images. Folders
            and statistics have no domains and are used in full.
        settings: which metrics to compute, and how to find their intervals.
        statistics: a file to which the folder's own features are saved for later calls.
        moments_only: save only the mean and covariance of the features, which is enough for FID.
        classifier: a classifier whose accuracy, confidence and L_BN on the images are measured; the images' labels
            must be among its classes. Without one, these values come from the manifest of the data set.
        device: the device of networks that are loaded here.
        inception_weights: a file with Inception's weights, for machines without access to the download.
        events: receives progress reports.

    Returns:
        A dictionary of JSON values. "images" and "reference_images" are the sizes of both sets. "metrics" has a value,
            low and high by name, or None if the metric could not be computed, with the reason in "missing"; "l_bn" is
            the mean L_BN of single images, "set_l_bn" is L_BN of the moments of all images. "resampled" names the set
            that each interval resamples: the reference for recall and coverage, otherwise the measured images. PRD
            and "set_l_bn" have no interval. "settings" and "warnings" complete it.

    Raises:
        ConfigError: something cannot be measured; the message gives the reason.
    """
    check_type("folder", folder, str | Path | Iterable, "a path or a list of paths")
    check_type("events", events, Events, "Events, such as Events(print)")
    named = [folder] if isinstance(folder, str | Path) else [*folder]
    for one in named:
        check_type("folder", one, str | Path, "a path")
    folders = [Path(one).expanduser() for one in named]
    _check_request(
        folders, reference, features, statistics, moments_only, classifier, inception_weights
    )
    images = open_pool(folders, domain, one_size=reference is not None)
    _check_domain(images, reference, domain)
    if classifier is not None and not isinstance(classifier, Classifier):
        classifier = load_classifier(classifier, device=device)
    with ExitStack() as files, events.task(TASK, None) as task:
        advance = task.progress
        goal, found, name = None, None, None
        if reference is not None or statistics is not None:
            extractor = features
            if not isinstance(extractor, Extractor):
                extractor = load_extractor(extractor, device, weights=inception_weights)
            name = extractor.name
            if reference is not None:
                goal = _reference(
                    reference, domain, images.domain, extractor, settings, files, advance
                )
            found = measure(images, extractor, settings.image_batch, files, advance)
            if statistics is not None:
                save_statistics(Path(statistics), found, extractor.name, moments_only)
        taught, rows = _taught(folders, images, classifier, settings, advance)
        compared: dict[str, Any] = dict.fromkeys(NEED_REFERENCE)
        if found is not None and goal is not None:
            compared = compared_with(found, goal, settings, _names(images, reference), advance)
        metrics = compared | taught
        return {
            "folder": ", ".join(map(str, folders)),
            "reference": None if reference is None else str(reference),
            "domain": domain,
            "images_domain": images.domain,
            "reference_domain": None if goal is None else goal.domain,
            "features": name,
            "classifier": None if classifier is None else classifier.name,
            "images": found.rows if found is not None else rows,
            "reference_images": None if goal is None else goal.rows,
            "level": LEVEL,
            "resampled": dict(RESAMPLED),
            "settings": asdict(settings),
            "metrics": metrics,
            "missing": _missing(metrics, goal, classifier),
            "warnings": [] if found is None or goal is None else warnings_of(found, goal),
        }


def _check_request(
    folders: Sequence[Path],
    reference: Path | str | None,
    features: str | Extractor,
    statistics: Path | str | None,
    moments_only: bool,
    classifier: str | Path | Classifier | None,
    inception_weights: Path | None,
) -> None:
    """Raise ConfigError, before anything is measured, for arguments that do not go together."""
    if not folders:
        raise ConfigError(
            "evaluate got no folder, expected at least one folder of images: name one."
        )
    if reference is None and statistics is None and classifier is None:
        raise ConfigError(
            "evaluate got no reference, expected a folder of images, a parquet file, a .safetensors file of "
            "statistics, or 'judge' for the embedded real features: pass `reference`, or `classifier` alone for what "
            "it says of the images."
        )
    if moments_only and statistics is None:
        raise ConfigError(
            "moments_only came without statistics, expected a file to keep them in: pass `statistics`, or leave "
            "`moments_only` out."
        )
    if isinstance(features, Extractor) and inception_weights is not None:
        raise ConfigError(
            f"inception_weights came with the features of {features.name}, which are loaded already, expected none: "
            "pass features='inception', or leave them out."
        )
    if statistics is not None:
        if Path(statistics).suffix != ENDING:
            raise ConfigError(
                f"statistics are to be kept in {statistics}, expected a name that ends in {ENDING}: `reference` knows "
                "them by it. Rename it."
            )
        check_writable(Path(statistics))


def _check_domain(images: Pooled, reference: Path | str | None, domain: str | None) -> None:
    if domain is not None and images.domain is None and reference is None:
        raise ConfigError(
            f"domain {domain!r} was asked of {images.path}, which has no column 'domain', and there is no reference, "
            "expected a parquet file that has one: leave `domain` out."
        )


def _reference(
    reference: Path | str,
    domain: str | None,
    measured_domain: str | None,
    extractor: Extractor,
    settings: Evaluation,
    files: ExitStack,
    advance: Advance,
) -> FeatureStatistics:
    path = Path(reference).expanduser()
    if str(reference) == JUDGE and not path.exists():
        return judge_reference(extractor, domain)
    if path.suffix == ENDING and path.is_file():
        kept = read_statistics(path, extractor, files)
        if domain not in (None, kept.domain) and (
            kept.domain is not None or measured_domain is None
        ):
            raise ConfigError(
                f"domain {domain!r} was asked of the statistics {path}, which are "
                f"{'of no single domain' if kept.domain is None else f'of {kept.domain!r}'}, expected a parquet file "
                "or the judge's reference: statistics are of one set, leave `domain` out or name another file."
            )
        return kept
    if path.is_dir() and measured_domain is not None:
        domain = None  # it picked the measured rows
    return measure(open_images(path, domain), extractor, settings.image_batch, files, advance)


def _names(images: Pooled, reference: Path | str | None) -> tuple[str, str]:
    """What messages call the two sets."""
    of = "the folder" if len(images.sets) == 1 else "the set of folders"
    return f"{of} {images.path}", f"the reference {reference}"


def _taught(
    folders: Sequence[Path],
    images: Pooled,
    classifier: Classifier | None,
    settings: Evaluation,
    advance: Advance,
) -> tuple[dict[str, Any], int | None]:
    """What a classifier says of the images, and of how many; None where there is none to ask."""
    metrics: dict[str, Any] = dict.fromkeys((*BY_IMAGE, "set_l_bn"))
    if classifier is None:
        columns = by_manifest(folders)
    else:
        columns, whole = by_classifier(images, classifier, settings.image_batch, advance)
        metrics["set_l_bn"] = None if whole is None else entry("set_l_bn", whole)
    if columns is None:
        return metrics, None
    drawn = drawn_rows(columns.shape[1], settings)
    judged = {
        name: None if values.isnan().any() else mean_entry(name, values, drawn)
        for name, values in zip(BY_IMAGE, columns, strict=True)
    }
    return metrics | judged, columns.shape[1]


def _missing(
    metrics: dict[str, Any], goal: FeatureStatistics | None, classifier: Classifier | None
) -> dict[str, str]:
    """What each metric that has no value would need."""
    needs = dict.fromkeys(
        NEED_REFERENCE, "needs `reference`" if goal is None else "needs the reference's features"
    )
    needs |= dict.fromkeys(BY_IMAGE, "needs a manifest or `classifier`") | {
        "set_l_bn": "needs `classifier`"
    }
    if metrics["teacher_accuracy"] is not None:
        needs |= {"l_bn": "needs a classifier with statistics"}
    if classifier is not None:
        needs |= {"set_l_bn": "needs a classifier with statistics"}
    return {name: needs[name] for name, found in metrics.items() if found is None}
