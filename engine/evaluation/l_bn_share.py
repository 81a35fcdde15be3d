"""Selection by `l_bn_share`: take out, one at a time, the image without which L_BN of all others falls most."""

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engine.classifiers.base import Classifier, statistics_of
from engine.classifiers.statistics import Statistics
from engine.datasets.dataset import ImageFile, load_sample
from engine.datasets.manifest import Row
from engine.evaluation.quotas import is_recognised, quotas
from engine.guidance.domain import layer_weights
from engine.guidance.moments import recording_moments
from engine.settings import Selection

CHUNK = 1024
"""Images whose common L_BN is looked at: the work grows with the square of their number."""
BATCH = 64


def selecting_statistics(classifier: Classifier) -> Statistics:
    """The statistics that shares are taken of. Raises ModelError where the classifier has none."""
    return statistics_of(classifier, "selection by 'l_bn_share'", "select by 'energy'")


def kept_by_share(
    files: Sequence[ImageFile], rows: Sequence[Row], selection: Selection, classifier: Classifier
) -> list[int]:
    """Selection by l_bn_share, a chunk of mixed classes at a time."""
    known = selecting_statistics(classifier)
    weights = layer_weights(known, "relative")
    goal_mean, goal_variance = (
        torch.cat(values).cpu().double() for values in zip(*known.stored, strict=True)
    )
    sizes = [len(stored.mean) for stored in known.stored]
    of_mean, of_variance = (
        torch.cat(
            [
                torch.full((size,), pair[which] ** 2)
                for size, pair in zip(sizes, weights, strict=True)
            ]
        ).double()
        for which in (0, 1)
    )

    def loss(mean: Tensor, variance: Tensor) -> Tensor:
        return (mean - goal_mean).square() @ of_mean + (
            variance - goal_variance
        ).square() @ of_variance

    mixed = sorted(range(len(rows)), key=lambda place: (rows[place].index, rows[place].class_index))
    chunks = -(-len(mixed) // CHUNK)
    whole = [row.class_index for row in rows]
    quota_of, number_of = quotas(whole, selection.keep), Counter(whole)
    seen: Counter[int] = Counter()
    given: Counter[int] = Counter()
    kept: list[int] = []
    for chunk in (mixed[number::chunks] for number in range(chunks)):
        means, squares = _image_moments(
            [files[place] for place in chunk], [rows[place] for place in chunk], classifier
        )
        classes = [rows[place].class_index for place in chunk]
        seen.update(classes)
        quota = {
            c: round(quota_of[c] * seen[c] / number_of[c]) - given[c] for c in sorted(set(classes))
        }
        given.update(quota)
        pool = list(range(len(chunk)))
        if selection.agreement:
            pool = _without_mistaken(pool, [rows[place] for place in chunk], quota)
        stay = greedy_by_share(
            means[pool], squares[pool], loss, torch.tensor([classes[n] for n in pool]), quota
        )
        kept += [chunk[pool[n]] for n in stay]
    return sorted(kept)


def greedy_by_share(
    means: Tensor,
    squares: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    classes: Tensor,
    quota: dict[int, int],
) -> list[int]:
    """Take out one image at a time, the one without which the loss of the others is least, down to each class's quota.

    means, squares: (N, C) each image's E[x] and E[x^2] of every channel. loss: means and variances (M, C) -> (M,).
    Returns the places of those that stay, ascending. O(N^2 C).
    """
    stay = torch.ones(len(means), dtype=torch.bool)
    left = {number: int((classes == number).sum()) for number in quota}
    mean_sum, square_sum = means.sum(0), squares.sum(0)
    for number_left in range(len(means), sum(quota.values()), -1):
        free = torch.tensor([left[int(number)] > quota[int(number)] for number in classes])
        candidates = torch.where(stay & free)[0]
        mean = (mean_sum - means[candidates]) / (number_left - 1)
        variance = (square_sum - squares[candidates]) / (number_left - 1) - mean.square()
        worst = candidates[loss(mean, variance).argmin()]
        stay[worst] = False
        left[int(classes[worst])] -= 1
        mean_sum, square_sum = mean_sum - means[worst], square_sum - squares[worst]
    return torch.where(stay)[0].tolist()


def _without_mistaken(pool: list[int], rows: Sequence[Row], quota: dict[int, int]) -> list[int]:
    """The pool without images that the classifier takes for another class, but for those that a quota needs."""
    left = {number: sum(row.class_index == number for row in rows) for number in quota}
    stay = []
    for n in pool:
        number = rows[n].class_index
        if not is_recognised(rows[n]) and left[number] > quota[number]:
            left[number] -= 1
        else:
            stay.append(n)
    return stay


@torch.no_grad()
def _image_moments(
    files: Sequence[ImageFile], rows: Sequence[Row], classifier: Classifier
) -> tuple[Tensor, Tensor]:
    """E[x] and E[x^2] of what each tapped layer reads of each image: (N, C) each, C over all layers, float64."""
    taps = selecting_statistics(classifier).taps
    parts = []
    for start in range(0, len(files), BATCH):
        places = range(start, min(start + BATCH, len(files)))
        images = torch.stack([load_sample(files[place], rows[place]).image for place in places])
        images = images.to(classifier.device)
        with recording_moments(taps, per_image=True) as taken:
            classifier.logits(images)
            mean, variance = (
                torch.cat(values, 1).cpu().double() for values in zip(*taken, strict=True)
            )
        parts.append((mean, variance + mean.square()))
    means, squares = zip(*parts, strict=True)
    return torch.cat(means), torch.cat(squares)
