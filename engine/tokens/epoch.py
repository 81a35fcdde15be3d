"""An epoch's images of some classes in batches: drawn when they are asked for, read by updates, counted by class."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from engine.priors import Context
from engine.settings import TokenLearning
from engine.tokens.source import Drawn, ImageSource
from engine.tokens.state import TokenState, learning_key


@dataclass(frozen=True)
class Part:
    """A batch of an epoch: of each image the row's number in the state, its place among the learners, and its class."""

    numbers: Tensor
    places: Tensor
    targets: Tensor
    drawn: Drawn

    def losses(self, logits: Tensor) -> Tensor:
        return cross_entropy(logits, self.targets.to(logits.device), reduction="none")


def draw(
    state: TokenState,
    chosen: list[int],
    context: Context,
    source: ImageSource,
    learning: TokenLearning,
    batch: int,
    check: range | None = None,
) -> Iterator[Part]:
    """An epoch's images of some classes in batches of nearly equal size, classes mixed; context: a row a class.

    A batch is drawn when it is asked for, and not held here. check: these images of the check instead, which come
    behind those of all epochs.
    """
    size = learning.images_per_epoch
    jobs = [
        (
            place,
            learning_key(
                state.classes[number],
                int(state.epochs[number]) if check is None else learning.epochs + 1,
                image,
                size,
            ),
        )
        for image in (range(size) if check is None else check)
        for place, number in enumerate(chosen)
    ]
    groups = -(-len(jobs) // batch)
    for group in range(groups):
        part = jobs[len(jobs) * group // groups : len(jobs) * (group + 1) // groups]
        places = torch.tensor([place for place, _ in part])
        keys = [key for _, key in part]
        targets = torch.tensor([key.class_index for key in keys])
        drawn = source.draw(keys, context[places.tolist()])
        yield Part(torch.tensor(chosen)[places], places, targets, drawn)


def gradient_by_context(
    state: TokenState,
    learners: list[int],
    context: Context,
    parts: Sequence[Part],
    learning: TokenLearning,
    update: int,
) -> Tensor:
    """The gradient of the sum of the classes' losses by their packed context (len(learners), F), batch by batch.

    The first update of an epoch records accuracy and loss.
    """
    summed = torch.zeros_like(context.packed(), dtype=torch.float32)
    if update == 0:
        state.accuracy[learners], state.loss[learners] = 0.0, 0.0
    for part in parts:
        rows = context[part.places.tolist()]
        found = part.drawn.gradient(update, rows, part.targets, learning, float(state.scale))
        state.scale.fill_(found.scale)
        summed.index_add_(0, part.places.to(summed.device), found.by_context)
        if update == 0:
            record(state, part, found.logits)
    if update == 0:
        state.accuracy[learners] /= learning.images_per_epoch
        state.loss[learners] /= learning.images_per_epoch
    return summed


def record(state: TokenState, part: Part, logits: Tensor) -> None:
    """Add how many images of a batch are right, and their losses; the caller divides."""
    right = logits.detach().argmax(1).cpu() == part.targets
    state.accuracy.index_add_(0, part.numbers, right.double())
    state.loss.index_add_(0, part.numbers, part.losses(logits).detach().double().cpu())


def count(state: TokenState, part: Part) -> None:
    state.denoiser_forward.index_add_(0, part.numbers, part.drawn.denoiser_forward)
    state.denoiser_backward.index_add_(0, part.numbers, part.drawn.denoiser_backward)


def classes_of(state: TokenState, numbers: Sequence[int]) -> list[int]:
    return [state.classes[number] for number in numbers]
