"""Distances between two sets of features, and the Inception score. Pure functions; each equation with its source.

Features are (N, F) tensors, or anything with `shape` that gives such a tensor for a slice or an index (a
`FeatureFile`). They are read in blocks and computed in float64, so that memory does not grow with N.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from engine.errors import ConfigError, counted

ROWS = 2048
"""Rows of a block: 32 MiB in float64 at 2048 features."""


class Features(Protocol):
    """Rows of numbers: a tensor (N, F), or a file of them."""

    @property
    def shape(self) -> torch.Size: ...

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class Gaussian:
    """What FID knows of a set: mean (F,), covariance (F, F) over N - 1, both float64, and the number of its rows."""

    mean: Tensor
    covariance: Tensor
    rows: int


@dataclass(frozen=True)
class Kid:
    """Mean over subsets, their standard deviation, and how many rows each had."""

    mean: float
    std: float
    subset_size: int


def blocks(features: Features, rows: int = ROWS) -> Iterator[tuple[slice, Tensor]]:
    """Slices and their rows in float64, in order."""
    total = features.shape[0]
    for start in range(0, total, rows):
        part = slice(start, min(start + rows, total))
        yield part, features[part].double()


def gaussian(features: Features, weights: Tensor | None = None) -> Gaussian:
    """Mean and covariance of features (N, F). weights (N,): how often each row counts, for resampling.

    Two reads: the mean, then the scatter about it, so that no digits are lost where the mean is large.
    """
    total = features.shape[0] if weights is None else int(weights.sum())
    if total < 2:
        raise ConfigError(
            f"a set has {counted(total, 'image')}, expected at least 2: a single one has no covariance. "
            "Add images."
        )
    count = torch.ones(features.shape[0]) if weights is None else weights
    count = count.to(torch.float64)[:, None]
    mean = torch.stack([(count[part] * x).sum(0) for part, x in blocks(features)]).sum(0) / total
    scatter = torch.zeros(mean.shape[0], mean.shape[0], dtype=torch.float64)
    for part, x in blocks(features):
        centred = x - mean
        scatter.addmm_((count[part] * centred).T, centred)
    return Gaussian(mean, scatter / (total - 1), total)


def square_root(covariance: Tensor) -> Tensor:
    """The symmetric square root of a covariance (F, F), negative rounding errors of its eigenvalues taken as 0."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def fid(samples: Gaussian, reference: Gaussian, root: Tensor | None = None) -> float:
    """Frechet distance of two Gaussians (Heusel et al. 2017, arXiv 1706.08500, eq. 6):

        |m - m_r|^2 + tr(C + C_r - 2 (C C_r)^(1/2))

    The trace of the root is the sum of the roots of the eigenvalues of C_r^(1/2) C C_r^(1/2), which is symmetric. root:
    C_r^(1/2) where it is known already. Biased upwards where rows are few for F (Chong & Forsyth 2020): compare
    equal numbers of images only.
    """
    check_widths(samples.mean.shape[0], reference.mean.shape[0])
    root = square_root(reference.covariance) if root is None else root
    shared = torch.linalg.eigvalsh(root @ samples.covariance @ root).clamp(min=0).sqrt().sum()
    gap = (samples.mean - reference.mean).square().sum()
    traces = samples.covariance.trace() + reference.covariance.trace()
    return max(0.0, float(gap + traces - 2 * shared))  # rounding alone brings it below 0


def check_widths(samples: int, reference: int) -> None:
    """Raise ConfigError where two sets have features of different networks."""
    if samples != reference:
        raise ConfigError(
            f"the images have {samples} features each and the reference {reference}, expected as many: both must come "
            "from the same network. Make the reference's statistics again with the same `features`."
        )


def kid(
    samples: Features,
    reference: Features,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> Kid:
    """Kernel distance: unbiased MMD^2 with k(a, b) = (a.b / F + 1)^3 (Binkowski et al. 2018, arXiv 1801.01401, eq. 4).

        sum_{i != j} [k(x_i, x_j) + k(y_i, y_j)] / (m (m - 1)) - 2 sum_{i, j} k(x_i, y_j) / m^2

    It is averaged over random subsets of m = `subset_size` rows of each set, fewer where a set has not so many.
    Unlike FID it has no bias in N; it may come out below 0.
    """
    check_widths(samples.shape[1], reference.shape[1])
    size = min(subset_size, samples.shape[0], reference.shape[0])
    if size < 2 or subsets < 1:
        raise ConfigError(
            f"KID has {counted(subsets, 'subset')} of {counted(size, 'image')}, expected at least "
            "1 of 2: add images, or ask for more."
        )
    rng = Generator().manual_seed(seed)
    whole = size == samples.shape[0] == reference.shape[0]  # every subset is the set
    values = [_mmd(samples, reference, size, rng) for _ in range(1 if whole else subsets)]
    found = torch.tensor(values, dtype=torch.float64)
    return Kid(found.mean().item(), found.std(correction=0).item(), size)


def _mmd(samples: Features, reference: Features, size: int, rng: Generator) -> float:
    y = reference[torch.randperm(reference.shape[0], generator=rng)[:size]].double()
    x = samples[torch.randperm(samples.shape[0], generator=rng)[:size]].double()
    same = sum(
        (k.sum() - k.trace()).item() for k in (polynomial_kernel(x, x), polynomial_kernel(y, y))
    )
    return same / (size * (size - 1)) - 2 * polynomial_kernel(x, y).mean().item()


def polynomial_kernel(a: Tensor, b: Tensor) -> Tensor:
    """k(a_i, b_j) = (a_i.b_j / F + 1)^3: (N, F), (M, F) -> (N, M)."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def inception_score(logits: Features, weights: Tensor | None = None) -> Tensor:
    """exp(mean_i KL(p_i || mean p)) of the classes' probabilities (Salimans et al. 2016, arXiv 1606.03498), in [1, K].

    logits: (N, K). Over all images at once: the usual ten splits bias it downwards where images are few. weights
    (B, N): how often each image counts in each of B resamples; gives (B,), else a scalar.
    """
    count = torch.ones(1, logits.shape[0]) if weights is None else weights
    count = count.to(torch.float64)
    total = count.sum(1)
    marginal = torch.zeros(len(count), logits.shape[1], dtype=torch.float64)
    negative_entropy = torch.zeros(len(count), dtype=torch.float64)
    for part, x in blocks(logits):
        p = x.softmax(1)
        marginal += count[:, part] @ p
        negative_entropy += count[:, part] @ (p * x.log_softmax(1)).sum(1)
    marginal /= total[:, None]
    scores = (negative_entropy / total - torch.special.xlogy(marginal, marginal).sum(1)).exp()
    return scores[0] if weights is None else scores
