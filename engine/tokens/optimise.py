"""Learning class alignment tokens (paper, section 3.3): only a class's own embedding row S_c moves.

    loss(c)  = mean over an epoch's images of cross_entropy(f(x_0), c)  [+ domain_weight L_BN of the batch],
               x_0 = the guided sampler's final image, or the clean image that an early step predicts
    S_c     <- Adam(dloss/dS_c), the gradient taken through one denoising step alone (paper: the last)

An epoch samples its images once; each of its updates reads them at another step. Classes learn side by side, up to
`batch` of them or as many as `side_by_side` says, so that a batch of images mixes them; each has its own early stop.
An update's gradient goes to the prompts' context first, and at its end from there to the rows. In the end a class
keeps its token only where that helps: see `engine.tokens.check`. Nothing here knows a
file or a progress bar: `learn` advances a `TokenState` and reports, and may be left after any report.
"""

from collections.abc import Iterator, Sequence

import torch

from engine.errors import GuidanceError
from engine.settings import TokenLearning
from engine.tokens.adam import RowOptimizer, row_optimizer
from engine.tokens.check import keep_what_helps
from engine.tokens.epoch import Part, classes_of, count, draw, gradient_by_context, record
from engine.tokens.source import ImageSource
from engine.tokens.state import Outcome, TokenEpoch, TokenState

MAX_SKIPPED = 0.1
"""The share of a class's updates so far that may be skipped for a gradient that is not finite."""
FEWEST = 20
"""Updates that this share is taken of at least: of the first update alone, a single skip would be all."""


def learn(
    state: TokenState,
    source: ImageSource,
    learning: TokenLearning,
    batch: int,
    limits: Sequence[tuple[slice, float]] = (),
) -> Iterator[list[TokenEpoch]]:
    """Learn the tokens of a state, cohort by cohort; yields after each epoch that the classes of one share.

    limits: the longest norms of rows, see `engine.tokens.adam.Capped`.

    When a report is yielded the state is whole: saved, loaded and given to `learn` again, it goes on to the same end.
    Raises GuidanceError once more than a tenth of a class's updates, and more than 2, had to be skipped.
    """
    for cohort in cohorts(len(state.classes), learning.side_by_side or batch):
        waiting = state.those(Outcome.WAITING, cohort)
        if waiting:
            state.joint = {}
            state.scale.fill_(source.scale)
        if waiting and learning.skip_passing:
            _try_without(state, waiting, source, learning, batch)
            yield [state.report(number) for number in waiting]
        elif waiting:
            state.outcome[waiting] = Outcome.LEARNING
        optimizer: RowOptimizer | None = None
        while learners := state.those(Outcome.LEARNING, cohort):
            optimizer = optimizer or row_optimizer(
                learning.optimizer, state, cohort, learning.learning_rate, limits
            )
            _learn_epoch(state, learners, source, learning, batch, optimizer)
            yield [state.report(number) for number in learners]
        learned = [
            *state.those(Outcome.RECOGNISED, cohort),
            *state.those(Outcome.EPOCHS_USED_UP, cohort),
        ]
        unchecked = sorted(number for number in learned if not state.checked[number])
        if unchecked and learning.check_images:
            keep_what_helps(state, unchecked, source, learning, batch)
            yield [state.report(number) for number in unchecked]


def cohorts(classes: int, size: int) -> list[range]:
    """The rows that learn side by side. A cohort's end depends on no other one."""
    return [range(start, min(start + size, classes)) for start in range(0, classes, size)]


def _try_without(
    state: TokenState, waiting: list[int], source: ImageSource, learning: TokenLearning, batch: int
) -> None:
    """Count on finished images which classes pass with the plain prompt."""
    with torch.no_grad():
        context = source.encode(classes_of(state, waiting), False)
        state.accuracy[waiting], state.loss[waiting] = 0.0, 0.0
        for part in draw(state, waiting, context, source, learning, batch):
            record(state, part, part.drawn.finished(range(len(part.numbers))))
            count(state, part)
            del part  # before the next one is drawn
    state.accuracy[waiting] /= learning.images_per_epoch
    state.loss[waiting] /= learning.images_per_epoch
    state.finished[waiting] = state.accuracy[waiting]
    passes = state.accuracy[waiting] > learning.target_accuracy
    state.outcome[waiting] = torch.where(passes, Outcome.PASSES_WITHOUT, Outcome.LEARNING)


def _learn_epoch(
    state: TokenState,
    learners: list[int],
    source: ImageSource,
    learning: TokenLearning,
    batch: int,
    optimizer: RowOptimizer,
) -> None:
    """Draw an epoch of some classes, stop those that pass and update the others."""
    state.epochs[learners] += 1
    context = source.encode(classes_of(state, learners), True)
    parts = list(draw(state, learners, context, source, learning, batch))
    moving = learners
    for update in range(learning.updates_per_trajectory):
        if update > 0:
            context = source.encode(classes_of(state, learners), True)
        by_context = gradient_by_context(state, learners, context, parts, learning, update)
        if update == 0:
            moving = _still_learning(state, learners, parts, learning)
        if not moving:
            break
        classes = classes_of(state, learners)
        grad, scale = source.to_rows(classes, by_context, state.rows, float(state.scale))
        state.scale.fill_(scale)
        # Of all rows at once: each question waits for the device.
        is_finite = grad.isfinite().all(1).tolist()
        finite = [number for number in moving if is_finite[number]]
        optimizer.step(finite, grad[finite])
        state.skipped[[number for number in moving if number not in finite]] += 1
    for part in parts:
        count(state, part)
    state.outcome[learners] = Outcome.RECOGNISED
    state.outcome[moving] = Outcome.LEARNING
    state.outcome[[n for n in moving if state.epochs[n] >= learning.epochs]] = (
        Outcome.EPOCHS_USED_UP
    )
    _check_skipped(state, learners)


def _still_learning(
    state: TokenState, learners: list[int], parts: Sequence[Part], learning: TokenLearning
) -> list[int]:
    """Those that do not pass. Images that an early step predicted are not trusted where `stop_on` is "finished".

    Then the images of each class that passes on them are sampled on to their end and counted again.
    """
    passing = [number for number in learners if state.accuracy[number] > learning.target_accuracy]
    if parts[0].drawn.complete:
        state.finished[learners] = state.accuracy[learners]
    elif learning.stop_on == "finished" and passing:
        state.finished[passing] = 0.0
        for part in parts:
            rows = [row for row, number in enumerate(part.numbers.tolist()) if number in passing]
            if rows:
                right = part.drawn.finished(rows).argmax(1).cpu() == part.targets[rows]
                state.finished.index_add_(0, part.numbers[rows], right.double())
        state.finished[passing] /= learning.images_per_epoch
        passing = [
            number for number in passing if state.finished[number] > learning.target_accuracy
        ]
    return [number for number in learners if number not in passing]


def _check_skipped(state: TokenState, learners: list[int]) -> None:
    for number in learners:
        skipped = int(state.skipped[number])
        tried = skipped + int(state.updates[number])
        if skipped > MAX_SKIPPED * max(tried, FEWEST):
            raise GuidanceError(
                f"{skipped} of {tried} updates of class {state.classes[number]}'s token had a gradient that is NaN or "
                f"infinite, expected at most {MAX_SKIPPED:.0%}, or {MAX_SKIPPED * FEWEST:.0f} of the first {FEWEST}: "
                "lower cfg or the alignment scale, or use the prior in float32."
            )
