"""Precision, recall, density and coverage: sets of features compared by their nearest neighbours.

A ball around each row reaches its k-th nearest other row of the same set; the union of the balls estimates where the
set lies.
Distances are computed in blocks in float64 about the reference's mean: memory grows with the number of rows alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import ConfigError, counted
from engine.evaluation.metrics import ROWS, Features, blocks, check_widths


@dataclass(frozen=True)
class Neighbours:
    """What is said of each row, so that intervals can be had by resampling rows; the metrics are the means.

    precise: (N,) bool, the sample is in a ball of the reference. density: (N,), the number of such balls, over k.
    recalled: (M,) bool, the reference row is in a ball of the samples. covered: (M,) bool, its own ball holds a sample.
    """

    precise: Tensor
    density: Tensor
    recalled: Tensor
    covered: Tensor


def neighbours(
    samples: Features, reference: Features, k: int = 3, density_k: int = 5, rows: int = ROWS
) -> Neighbours:
    """Each row's part in precision and recall (balls of the k-th neighbour) and in density and coverage (density_k).

    precision, recall: Kynkaanniemi et al. 2019 (arXiv 1904.06991, eq. 1-2; their k is 3),
        mean_j [some i: |x_j - r_i| <= d_k(r_i)]      mean_i [some j: |x_j - r_i| <= d_k(x_j)]
    density, coverage: Naeem et al. 2020 (arXiv 2002.09797, eq. 3-4; their k is 5),
        mean_j sum_i [|x_j - r_i| <= d_k(r_i)] / k    mean_i [some j: |x_j - r_i| <= d_k(r_i)]
    with d_k(r_i) the distance to the k-th nearest of the other rows of its set.
    """
    check_widths(samples.shape[1], reference.shape[1])
    check_neighbours(k, density_k, samples.shape[0], reference.shape[0])
    centre = torch.stack([x.sum(0) for _, x in blocks(reference)]).sum(0) / reference.shape[0]
    balls = squared_radii(reference, (k, density_k), centre, rows)
    (own,) = squared_radii(samples, (k,), centre, rows).T
    number, total = samples.shape[0], reference.shape[0]
    precise, density = (
        torch.zeros(number, dtype=torch.bool),
        torch.zeros(number, dtype=torch.float64),
    )
    recalled, covered = torch.zeros(total, dtype=torch.bool), torch.zeros(total, dtype=torch.bool)
    for mine, x in blocks(samples, rows):
        for theirs, r in blocks(reference, rows):
            distances = squared_distances(x - centre, r - centre)
            precise[mine] |= (distances <= balls[theirs, 0]).any(1)
            recalled[theirs] |= (distances <= own[mine, None]).any(0)
            inside = distances <= balls[theirs, 1]
            density[mine] += inside.sum(1)
            covered[theirs] |= inside.any(0)
    return Neighbours(precise, density / density_k, recalled, covered)


def check_neighbours(
    k: int,
    density_k: int,
    samples: int,
    reference: int,
    of: str = "the folder",
    to: str = "the reference",
) -> None:
    """Raise ConfigError where a set has no k other images; `of` and `to` are what the message calls the sets."""
    for option, value, what, number in (
        ("neighbours", k, of, samples),
        ("neighbours", k, to, reference),
        ("density_neighbours", density_k, to, reference),
    ):
        if not 1 <= value < number:
            raise ConfigError(
                f"{option} is {value} and {what} has {counted(number, 'image')}, expected 1 <= k < images: the k "
                f"nearest neighbours of an image are other ones of its set. Lower `{option}`, or add images to {what}."
            )


def squared_radii(
    features: Features, ks: tuple[int, ...], centre: Tensor, rows: int = ROWS
) -> Tensor:
    """Squared distance of each row to the k-th nearest other row of its set, for each k: (N, F) -> (N, len(ks)).

    Each k is at least 1 and below N.
    """
    number, most = features.shape[0], max(ks)
    radii = torch.empty(number, len(ks), dtype=torch.float64)
    for mine, x in blocks(features, rows):
        nearest = torch.full((len(x), most), torch.inf, dtype=torch.float64)
        for theirs, y in blocks(features, rows):
            distances = squared_distances(x - centre, y - centre)
            if mine == theirs:
                distances.fill_diagonal_(torch.inf)
            candidates = torch.cat([nearest, distances], 1)
            nearest = candidates.topk(most, dim=1, largest=False).values
        radii[mine] = nearest[:, [k - 1 for k in ks]]
    return radii


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|^2: (N, F), (M, F) -> (N, M), never below 0."""
    lengths = a.square().sum(1)[:, None] + b.square().sum(1)
    return lengths.addmm_(a, b.T, alpha=-2).clamp_(min=0)
