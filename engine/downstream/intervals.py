"""By how much two rows differ, with an interval that images and seeds are both drawn again for.

Every network is measured on the same images, so their differences are paired: an image that is hard is hard for both.
"""

from typing import Any

import torch
from torch import Tensor

from engine.evaluation.intervals import LEVEL

DRAWS = 4000
"""Bootstrap samples (Efron and Tibshirani, 1993, chapter 6)."""
AT_ONCE = 2**22
"""Numbers of a block of samples, which bounds memory."""


def difference(ours: Tensor, theirs: Tensor, seed: int = 0) -> dict[str, Any]:
    """Mean of ours less theirs, and its percentile interval of 95 %, "low" to "high".

    ours, theirs: (S, N) and (T, N) scores of networks from S and T seeds on the same N images. One seed alone is not
    drawn again: the interval is then of the images. Of few seeds it is too narrow still, as any bootstrap's is.
    """
    ours, theirs = _widened(ours), _widened(theirs)
    rng = torch.Generator().manual_seed(seed)
    images = ours.shape[1]
    block = max(1, AT_ONCE // images)
    drawn = [
        _means(ours, theirs, min(block, DRAWS - start), rng) for start in range(0, DRAWS, block)
    ]
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = torch.cat(drawn).quantile(ends).tolist()
    mean = (ours.mean() - theirs.mean()).item()
    return {"mean": mean, "low": low, "high": high}


def _widened(scores: Tensor) -> Tensor:
    """Scores (S, N) whose seeds lie as far from their mean as an unbiased variance has it; the mean stays."""
    scores = scores.double()
    seeds, mean = len(scores), scores.mean(0, keepdim=True)
    return mean + (scores - mean) * (seeds / (seeds - 1)) ** 0.5 if seeds > 1 else scores


def _means(ours: Tensor, theirs: Tensor, draws: int, rng: torch.Generator) -> Tensor:
    """Differences of the means of `draws` samples, (draws,)."""
    images = _weights(draws, ours.shape[1], rng)
    sampled = [
        ((_weights(draws, len(scores), rng) @ scores) * images).sum(1) for scores in (ours, theirs)
    ]
    return sampled[0] - sampled[1]


def _weights(draws: int, number: int, rng: torch.Generator) -> Tensor:
    """How often each of `number` things is in a sample of as many, as shares: (draws, number) float64."""
    chosen = torch.randint(number, (draws, number), generator=rng)
    counts = torch.zeros(draws, number, dtype=torch.float64)
    return counts.scatter_add_(1, chosen, torch.ones(draws, number, dtype=torch.float64)) / number
