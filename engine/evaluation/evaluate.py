"""One evaluator for every method: a folder of images against a reference, with intervals and both sample sizes."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.config import Evaluation
from engine.errors import ConfigError
from engine.evaluation.extractors import JUDGE, Extractor, load_extractor
from engine.evaluation.images import Pooled, has_manifest, open_images
from engine.evaluation.intervals import (
    LEVEL,
    Interval,
    counts,
    fid_interval,
    kid_interval,
    mean_interval,
    score_interval,
)
from engine.evaluation.metrics import fid, inception_score, kid
from engine.evaluation.neighbours import neighbours
from engine.evaluation.prd import prd
from engine.evaluation.statistics import (
    Measured,
    Statistics,
    judge_reference,
    measure,
    read_statistics,
    save_statistics,
)
from engine.outputs.manifest import MANIFEST, read_manifest

Step = Callable[[int], object]
NEED_FEATURES = ("precision", "recall", "density", "coverage", "prd_precision", "prd_recall")


def evaluate(
    folder: Path | str | Sequence[Path | str],
    reference: Path | str | None = None,
    features: str | Extractor = JUDGE,
    *,
    domain: str | None = None,
    settings: Evaluation = Evaluation(),
    statistics: Path | str | None = None,
    moments_only: bool = False,
    device: str | torch.device | None = None,
    inception_weights: Path | None = None,
    on_step: Step = lambda _: None,
) -> dict[str, Any]:
    """Measure the images of `folder`, a data set of ours or any folder of images, against those of `reference`.

    folder: several, such as the runs of several seeds, are measured as one set.

    reference: a folder of images, a parquet file (`domain` picks rows), a file of saved statistics, or 'judge', the
    embedded judge's own real images (`domain` picks theirs). features: 'judge', 'classifier:<source>', 'inception', or
    an Extractor. statistics: where to keep the folder's own features, for later calls; no reference is needed then.

    Gives JSON values: "images" and "reference_images", "metrics" (name -> value, low and high; None where it needs
    what is not there), "settings" and "warnings". Raises ConfigError for what cannot be measured, and says why.
    """
    if reference is None and statistics is None:
        raise ConfigError(
            "evaluate got no reference, expected a folder of images, a parquet file, a .safetensors file of "
            "statistics, or 'judge' for the embedded real features: pass --reference."
        )
    folders = [Path(folder)] if isinstance(folder, str | Path) else [Path(one) for one in folder]
    if not folders:
        raise ConfigError("evaluate got no folder, expected at least one folder of images: name one.")
    extractor = (
        features
        if isinstance(features, Extractor)
        else load_extractor(features, device, weights=inception_weights)
    )
    with ExitStack() as files:
        goal = None
        if reference is not None:
            goal = _reference(reference, domain, extractor, settings, files, on_step)
        images = Pooled(tuple(open_images(one, one_size=goal is not None) for one in folders))
        found = measure(images, extractor, settings.image_batch, files, on_step)
        if statistics is not None:
            save_statistics(Path(statistics), found, extractor.name, moments_only)
        compared = {} if goal is None else _compared(found, goal, settings, on_step)
        return {
            "folder": ", ".join(map(str, folders)),
            "reference": None if reference is None else str(reference),
            "domain": domain,
            "features": extractor.name,
            "images": found.rows,
            "reference_images": None if goal is None else goal.rows,
            "level": LEVEL,
            "settings": asdict(settings),
            "metrics": compared | _teacher(folders, settings),
            "warnings": [] if goal is None else _warnings(found, goal),
        }


def _reference(
    reference: Path | str,
    domain: str | None,
    extractor: Extractor,
    settings: Evaluation,
    files: ExitStack,
    on_step: Step,
) -> Statistics:
    path = Path(reference).expanduser()
    if str(reference) == JUDGE and not path.exists():
        return judge_reference(extractor, domain)
    if path.suffix == ".safetensors" and path.is_file():
        if domain is not None:
            raise ConfigError(
                f"domain {domain!r} was asked of the statistics {path}, expected a parquet file or the judge's "
                "reference: statistics are of one set, leave --domain out."
            )
        return read_statistics(path, extractor, files)
    return measure(open_images(path, domain), extractor, settings.image_batch, files, on_step)


def _compared(found: Measured, goal: Statistics, settings: Evaluation, on_step: Step) -> dict[str, Any]:
    """All metrics that need features, logits or a reference."""
    seed = settings.evaluation_seed
    drawn = _drawn(found.rows, settings)
    distance = fid(found.gaussian, goal.gaussian)
    score = inception_score(found.logits).item()
    metrics = {
        "fid": _entry(
            distance, drawn, lambda d: fid_interval(distance, found.features, goal.gaussian, d, on_step)
        ),
        "kid": None,
        "inception_score": _entry(score, drawn, lambda d: score_interval(score, found.logits, d)),
        **dict.fromkeys(NEED_FEATURES),
    }
    if goal.features is None:
        return metrics
    reference = goal.features
    kernel = kid(found.features, reference, settings.kid_subsets, settings.kid_subset_size, seed)
    metrics["kid"] = _entry(
        kernel.mean, drawn, lambda d: kid_interval(kernel.mean, found.features, reference, len(d), seed)
    ) | {"std": kernel.std, "subset_size": kernel.subset_size}
    near = neighbours(found.features, reference, settings.neighbours, settings.density_neighbours)
    drawn_reference = _drawn(goal.rows, settings)
    metrics["precision"] = _mean(near.precise, drawn)
    metrics["recall"] = _mean(near.recalled, drawn_reference)
    metrics["density"] = _mean(near.density, drawn)
    metrics["coverage"] = _mean(near.covered, drawn_reference)
    precision, recall = prd(found.features, reference, settings.prd_clusters, seed=seed)
    return metrics | {"prd_precision": _entry(precision), "prd_recall": _entry(recall)}


def _teacher(folders: Sequence[Path], settings: Evaluation) -> dict[str, Any]:
    """The teacher's accuracy and confidence and the images' L_BN, from the manifest; None where there is none."""
    names = ("teacher_accuracy", "teacher_confidence", "l_bn")
    if not all(has_manifest(folder) and (folder / MANIFEST).exists() for folder in folders):
        return dict.fromkeys(names)
    rows = [
        (float(row.logits.argmax() == row.class_index), row.confidence, row.l_bn)
        for folder in folders
        for row in read_manifest(folder)
    ]
    columns = torch.tensor(rows, dtype=torch.float64).T
    drawn = _drawn(len(rows), settings)
    return {name: _mean(values, drawn) for name, values in zip(names, columns, strict=True)}


def _drawn(rows: int, settings: Evaluation) -> Tensor | None:
    """Which rows each resample has, (B, rows); None where no intervals are asked for."""
    return counts(rows, settings.resamples, settings.evaluation_seed) if settings.resamples else None


def _mean(values: Tensor, drawn: Tensor | None) -> dict[str, Any]:
    return _entry(values.double().mean().item(), drawn, lambda d: mean_interval(values, d))


def _entry(
    value: float, drawn: Tensor | None = None, interval: Callable[[Tensor], Interval] | None = None
) -> dict[str, Any]:
    low, high = (None, None) if drawn is None or interval is None else interval(drawn)
    return {"value": value, "low": low, "high": high}


def _warnings(found: Statistics, goal: Statistics) -> list[str]:
    """What a reader of the numbers must know."""
    few = [
        f"{what} has {number} images, fewer than the {found.width} features"
        for what, number in (("the folder", found.rows), ("the reference", goal.rows))
        if number < found.width
    ]
    return [
        f"{sentence}: FID is biased upwards, compare it only at equal numbers of images; KID is not biased."
        for sentence in few
    ]
