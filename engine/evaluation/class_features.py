"""The last features of images by class: their means, and their covariance within classes, in one pass."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from engine.classifiers import Classifier
from engine.classifiers.statistics import Examined, Tap
from engine.classifiers.statistics.file import COUNTS, COVARIANCE, MEANS
from engine.classifiers.statistics.layers import watched
from engine.errors import ModelError


class ClassFeatures:
    """Means (K, F) and pooled covariance (F, F) of features that come in parts, in float64 by Chan's rule.

    Of a class with n rows of mean m, and n' more of mean m' whose scatter is S':
        m + (m' - m) n' / (n + n')        S + S' + (m' - m)(m' - m)^T n n' / (n + n')
    """

    def __init__(self, classes: int, width: int) -> None:
        self.counts = torch.zeros(classes, dtype=torch.int64)
        self.means = torch.zeros(classes, width, dtype=torch.float64)
        self.scatter = torch.zeros(width, width, dtype=torch.float64)

    def add(self, rows: Tensor, classes: Tensor) -> None:
        """Take rows (N, F), any float dtype, of these classes (N,)."""
        part = rows.double()
        present, place, counts = classes.unique(return_inverse=True, return_counts=True)
        before, more = self.counts[present].double(), counts.double()
        means = torch.zeros(len(present), part.shape[1], dtype=torch.float64)
        means.index_add_(0, place, part).div_(more[:, None])
        centred, gaps = part - means[place], means - self.means[present]
        share = more / (before + more)
        self.scatter.addmm_(centred.T, centred)
        self.scatter.addmm_((gaps * (before * share)[:, None]).T, gaps)
        self.means[present] += gaps * share[:, None]
        self.counts[present] += counts

    def tensors(self) -> dict[str, Tensor]:
        """By their names in a statistics file. A class without an image has a mean of zeros and a count of 0."""
        freedom = max(1, int(self.counts.sum() - (self.counts > 0).sum()))
        return {
            COUNTS: self.counts,
            MEANS: self.means.float(),
            COVARIANCE: (self.scatter / freedom).float(),
        }


def last_features(classifier: Classifier) -> tuple[Tap, int]:
    """Where a classifier's last features (N, F) can be read: the input of the last matrix, and F.

    Raises ModelError where its logits do not come from a linear layer.
    """
    layers = dict(classifier.network.named_modules())
    linear = {path: layer for path, layer in layers.items() if isinstance(layer, nn.Linear)}
    blank = torch.zeros(1, 3, *classifier.preprocess.crop, device=classifier.device)
    examined = Examined(classifier.network, lambda: classifier.logits(blank), classifier.preprocess)
    calls = watched(dict.fromkeys(linear, ("input",)), examined)
    if not calls or linear[calls[-1].path].out_features != len(classifier.labels):
        raise ModelError(
            f"classifier {classifier.name!r} gives its {len(classifier.labels)} logits by no linear layer, expected "
            "one, whose input are the last features: leave `features` out."
        )
    return calls[-1].tap(classifier.network), calls[-1].channels


@contextmanager
def recording_input(tap: Tap | None) -> Iterator[list[Tensor]]:
    """Yield a list that a pass fills with what a tapped layer reads; without a tap it stays empty."""
    taken: list[Tensor] = []
    if tap is None:
        yield taken
        return
    hook = tap.layer.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    try:
        yield taken
    finally:
        hook.remove()
        taken.clear()
