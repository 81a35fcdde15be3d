"""A measured set compared with a reference: every metric that needs features, logits or both sets."""

from typing import Any

from engine.errors import counted
from engine.evaluation.entries import drawn_rows, entry, mean_entry
from engine.evaluation.intervals import fid_interval, kid_interval, score_interval
from engine.evaluation.metrics import fid, inception_score, kid
from engine.evaluation.neighbours import check_neighbours, neighbours
from engine.evaluation.prd import check_clusters, prd
from engine.evaluation.statistics import FeatureStatistics, Measured
from engine.events import Advance
from engine.settings import Evaluation

NEED_FEATURES = ("kid", "precision", "recall", "density", "coverage", "prd_precision", "prd_recall")
NEED_REFERENCE = ("fid", "inception_score", *NEED_FEATURES)


def compared_with(
    found: Measured,
    goal: FeatureStatistics,
    settings: Evaluation,
    names: tuple[str, str],
    advance: Advance,
) -> dict[str, Any]:
    """Entry of each of NEED_REFERENCE; None where the reference kept its moments alone.

    names: what messages call the two sets. Raises ConfigError where one is too small for the settings.
    """
    sizes = found.rows, goal.rows
    if goal.features is not None:
        check_neighbours(settings.neighbours, settings.density_neighbours, *sizes, *names)
        check_clusters(settings.prd_clusters, *sizes, *names)
    seed, drawn = settings.evaluation_seed, drawn_rows(found.rows, settings)
    distance, score = fid(found.gaussian, goal.gaussian), inception_score(found.logits).item()
    metrics: dict[str, Any] = {
        "fid": entry(
            "fid",
            distance,
            drawn,
            lambda d: fid_interval(distance, found.features, goal.gaussian, d, advance),
        ),
        "inception_score": entry(
            "inception_score", score, drawn, lambda d: score_interval(score, found.logits, d)
        ),
        **dict.fromkeys(NEED_FEATURES),
    }
    if goal.features is None:
        return metrics
    reference = goal.features
    kernel = kid(found.features, reference, settings.kid_subsets, settings.kid_subset_size, seed)
    metrics["kid"] = entry(
        "kid",
        kernel.mean,
        drawn,
        lambda d: kid_interval(kernel.mean, found.features, reference, len(d), seed),
    ) | {"std": kernel.std, "subset_size": kernel.subset_size}
    near = neighbours(found.features, reference, settings.neighbours, settings.density_neighbours)
    drawn_reference = drawn_rows(goal.rows, settings)
    metrics["precision"] = mean_entry("precision", near.precise, drawn)
    metrics["recall"] = mean_entry("recall", near.recalled, drawn_reference)
    metrics["density"] = mean_entry("density", near.density, drawn)
    metrics["coverage"] = mean_entry("coverage", near.covered, drawn_reference)
    precision, recall = prd(found.features, reference, settings.prd_clusters, seed=seed)
    return metrics | {
        "prd_precision": entry("prd_precision", precision),
        "prd_recall": entry("prd_recall", recall),
    }


def warnings_of(found: FeatureStatistics, goal: FeatureStatistics) -> list[str]:
    """What a reader of the numbers must know."""
    few = [
        f"{what} has {counted(number, 'image')}, fewer than the {found.width} features: FID is biased upwards, compare "
        "it only at equal numbers of images; KID is not biased."
        for what, number in (("the folder", found.rows), ("the reference", goal.rows))
        if number < found.width
    ]
    if found.rows != goal.rows and goal.features is not None:
        few.append(
            f"the folder has {counted(found.rows, 'image')} and the reference {goal.rows}: precision, recall, density "
            "and coverage depend on both numbers, compare them only with values at the same two."
        )
    return few
