"""Adam on pixels, or on what makes pixels: the loop that the baselines share.

Pixels are optimised as the network reads them, x = (image - mean) / std, about unit normal, and at the network's input
size: a resize that its preprocessing has is left out meanwhile.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from engine.classifiers.base import Classifier


@dataclass(frozen=True)
class Iteration:
    """One iteration of a batch. loss: before its step, a scalar without graph."""

    index: int
    total: int
    loss: Tensor


OnIteration = Callable[[Iteration, Sequence[int]], None]
"""Called after each iteration with it and the classes of its images."""


class Canvas:
    """The pixels x (N, 3, h, w) of one classifier, between noise and images in [0, 1]."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self.size = classifier.preprocess.crop
        self.mean, self.std = (
            torch.tensor(values, device=classifier.device).view(1, 3, 1, 1)
            for values in (classifier.preprocess.mean, classifier.preprocess.std)
        )

    def noise(self, count: int, size: Sequence[int], rng: Generator) -> Tensor:
        """Unit normal pixels (count, 3, *size), drawn on the CPU."""
        return torch.randn(count, 3, *size, generator=rng).to(self.classifier.device)

    def images(self, x: Tensor) -> Tensor:
        """What the pixels look like: (N, 3, h, w), in [0, 1] where they are an image's."""
        return x * self.std + self.mean

    def clamp_(self, x: Tensor) -> None:
        """Bring pixels that no image can have to the nearest that one can, in place."""
        x.copy_((self.images(x).clamp(0, 1) - self.mean) / self.std)

    def finished(self, x: Tensor) -> Tensor:
        """Images (N, 3, h, w) in [0, 1], without graph."""
        return self.images(x.detach()).clamp(0, 1)


def read_at(classifier: Classifier, size: tuple[int, int]) -> Classifier:
    """The classifier for images that are `size` (height, width) already."""
    return replace(classifier, preprocess=replace(classifier.preprocess, resize=None, crop=size))


class Watch:
    """Counts the iterations of a batch through all of a method's stages, and tells of each."""

    def __init__(self, total: int, labels: Sequence[int], on_iteration: OnIteration | None) -> None:
        self.total = total
        self.labels = labels
        self.on_iteration = on_iteration
        self.index = 0

    def __call__(self, loss: Tensor) -> None:
        if self.on_iteration is not None:
            self.on_iteration(Iteration(self.index, self.total, loss.detach()), self.labels)
        self.index += 1


def descend(
    groups: Iterable[dict[str, Any]],
    loss: Callable[[], Tensor],
    iterations: int,
    betas: tuple[float, float],
    watch: Watch,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Lower a loss by Adam, in place, with a learning rate that falls to 0 along a cosine.

    groups: as torch's optimisers take them, [{"params": [leaf, ...], "lr": 0.1}, ...]. after: called, without
    gradients, behind each step.
    """
    groups = list(groups)
    leaves = [leaf for group in groups for leaf in group["params"]]
    adam = torch.optim.Adam(groups, betas=betas)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(adam, max(1, iterations))
    for _ in range(iterations):
        with torch.enable_grad():
            value = loss()
            gradients = torch.autograd.grad(value, leaves)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = gradient
        adam.step()
        rate.step()
        with torch.no_grad():
            after()
        watch(value)
