"""Precision and recall of distributions, the variant that the DDIS paper reports (Sajjadi et al. 2018).

Both sets are clustered together; P and Q are the shares of the clusters among the reference's and the samples' rows.
"""

import math

import torch
from torch import Generator, Tensor

from engine.errors import ConfigError, counted
from engine.evaluation.metrics import Features, check_widths
from engine.evaluation.neighbours import squared_distances

MOST_ROWS = 10_000
ANGLES = 1001
ROUNDS = 100


def prd(
    samples: Features, reference: Features, clusters: int = 20, runs: int = 10, seed: int = 0
) -> tuple[float, float]:
    """(F_1/8, F_8), Sajjadi's summaries of precision and of recall (arXiv 1806.00035, section 4.1).

    Equal numbers of rows of both sets are clustered by k-means, at most 10,000 of each, drawn at random; the curves of
    `runs` clusterings are averaged, as in the paper. Raises ConfigError for as many clusters as clustered rows: each
    would hold one, and both summaries would be 0 whatever the sets are.
    """
    check_widths(samples.shape[1], reference.shape[1])
    check_clusters(clusters, samples.shape[0], reference.shape[0])
    rng = Generator().manual_seed(seed)
    size = min(samples.shape[0], reference.shape[0], MOST_ROWS)
    x, r = (
        part[torch.randperm(part.shape[0], generator=rng)[:size]].double()
        for part in (samples, reference)
    )
    both = torch.cat([r, x])
    curves = []
    for _ in range(runs):
        labels = k_means(both, clusters, rng)
        p, q = (torch.bincount(part, minlength=clusters) / size for part in labels.split(size))
        curves.append(prd_curve(p, q))
    precision, recall = torch.stack(curves).mean(0)
    return f_score(precision, recall, 1 / 8), f_score(precision, recall, 8)


def check_clusters(
    clusters: int, samples: int, reference: int, of: str = "the folder", to: str = "the reference"
) -> None:
    """Raise ConfigError where there are as many clusters as clustered rows; `of` and `to` name the sets."""
    number, what = min((samples, of), (reference, to), key=lambda pair: pair[0])
    if not 1 <= clusters < 2 * number:
        raise ConfigError(
            f"prd_clusters is {clusters} and {what} has {counted(number, 'image')}, expected 1 <= clusters < twice as "
            f"many: equal numbers of both sets are clustered. Lower `prd_clusters`, or add images to {what}."
        )


def prd_curve(p: Tensor, q: Tensor, angles: int = ANGLES) -> Tensor:
    """Sajjadi et al., eq. 5 and algorithm 1: shares P of the reference and Q of the samples (C,) -> (2, angles).

    precision(l) = sum_c min(l P_c, Q_c)       recall(l) = sum_c min(P_c, Q_c / l)       l = tan(angle)
    """
    slopes = torch.linspace(1e-10, math.pi / 2 - 1e-10, angles, dtype=torch.float64).tan()[:, None]
    p, q = p.double(), q.double()
    precision = torch.minimum(slopes * p, q).sum(1)
    return torch.stack([precision, precision / slopes[:, 0]]).clamp(0, 1)


def f_score(precision: Tensor, recall: Tensor, beta: float) -> float:
    """The largest F_beta on a curve: beta 8 weighs recall, 1/8 precision."""
    weight = beta * beta
    scores = (1 + weight) * precision * recall / (weight * precision + recall).clamp(min=1e-300)
    return float(scores.max())


def k_means(rows: Tensor, clusters: int, rng: Generator) -> Tensor:
    """Lloyd's rounds from a k-means++ start (Arthur & Vassilvitskii 2007): (N, F) -> the cluster of each row, (N,)."""
    centres = rows[torch.randint(0, len(rows), (1,), generator=rng)]
    while len(centres) < clusters:
        gaps = squared_distances(rows, centres).min(1).values
        chance = gaps if gaps.sum() > 0 else torch.ones_like(gaps)
        centres = torch.cat([centres, rows[torch.multinomial(chance, 1, generator=rng)]])
    labels = torch.full((len(rows),), -1)
    for _ in range(ROUNDS):
        found = squared_distances(rows, centres).argmin(1)
        if bool((found == labels).all()):
            break
        labels = found
        sums = torch.zeros_like(centres).index_add_(0, labels, rows)
        counts = torch.bincount(labels, minlength=clusters)[:, None]
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return labels
