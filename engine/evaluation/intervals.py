"""Bootstrap intervals of the metrics: how far each would move with other images of the same origin.

Rows are resampled with replacement (Efron 1979). An interval holds the middle `LEVEL` of the resampled values, moved
so that their mean is the estimate: a resample has fewer distinct images, which alone raises FID.
"""

import torch
from torch import Generator, Tensor

from engine.evaluation.metrics import (
    Features,
    Gaussian,
    fid,
    gaussian,
    inception_score,
    polynomial_kernel,
    square_root,
)
from engine.events import Advance

LEVEL = 0.95
KID_ROWS = 5000

Interval = tuple[float, float]


def counts(rows: int, resamples: int, seed: int = 0) -> Tensor:
    """How often each of `rows` is drawn in each resample: (resamples, rows) float32, every sum is `rows`."""
    rng = Generator().manual_seed(seed)
    drawn = (torch.randint(0, rows, (rows,), generator=rng) for _ in range(resamples))
    return torch.stack([torch.bincount(rows_of, minlength=rows).float() for rows_of in drawn])


def interval(estimate: float, resampled: Tensor) -> Interval:
    """The estimate and the spread (B,) of its resampled values -> lower and upper end."""
    spread = resampled.double() - resampled.double().mean()
    tail = (1 - LEVEL) / 2
    low, high = torch.quantile(spread, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return estimate + low, estimate + high


def mean_interval(values: Tensor, drawn: Tensor) -> Interval:
    """Interval of a mean over rows: values (N,), drawn (B, N) of `counts`."""
    values = values.double()
    return interval(values.mean().item(), drawn.double() @ values / len(values))


def fid_interval(
    estimate: float,
    samples: Features,
    reference: Gaussian,
    drawn: Tensor,
    advance: Advance = lambda _: None,
) -> Interval:
    """Interval of FID with the reference held fixed; each resample reads the samples' features again."""
    root = square_root(reference.covariance)
    found = []
    for weights in drawn:
        found.append(fid(gaussian(samples, weights), reference, root))
        advance(1)
    return interval(estimate, torch.tensor(found, dtype=torch.float64))


def score_interval(estimate: float, logits: Features, drawn: Tensor) -> Interval:
    """Interval of the Inception score."""
    return interval(estimate, inception_score(logits, drawn))


def kid_interval(
    estimate: float, samples: Features, reference: Features, resamples: int, seed: int = 0
) -> Interval:
    """Interval of KID with the reference held fixed, over at most 5,000 rows of each: wider than needed beyond that.

    Pairs of a row with itself are left out of every resample, or duplicates would count as closeness:
        sum_{i != j} w_i w_j k(x_i, x_j) / sum_{i != j} w_i w_j - 2 sum_{i, j} w_i k(x_i, y_j) / (n m)
    """
    rng = Generator().manual_seed(seed)
    x, y = (
        rows[torch.randperm(rows.shape[0], generator=rng)[:KID_ROWS]].double()
        for rows in (samples, reference)
    )
    weights = counts(len(x), resamples, seed).double()
    kernel = polynomial_kernel(x, x).fill_diagonal_(0)
    pairs = weights.sum(1).square() - weights.square().sum(1)
    within = ((weights @ kernel) * weights).sum(1) / pairs
    across = weights @ polynomial_kernel(x, y).mean(1) / len(x)
    return interval(estimate, within - 2 * across)
