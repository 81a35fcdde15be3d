"""The check of learned tokens: on images that learning did not read, which of them a class keeps.

Learning reads few images, and early predictions of them. So finished images decide between the token, what it started
as and the plain prompt.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from engine.settings import TokenLearning
from engine.tokens.epoch import classes_of, count, draw
from engine.tokens.source import ImageSource
from engine.tokens.state import Outcome, TokenState

SURE = (2.0, 2.18, 2.29, 2.36, 2.41, 2.45, 2.49, 2.51, 2.54)
"""Standard errors by which a token must be better than the plain prompt to be kept, by the number of looks that a check
may take: so that all together are as rarely wrong as one (Pocock 1977, Biometrika 64, table 1)."""
ALIKE_BELOW = 0.2
"""A token is refused below this variety. A token that serves may well halve it: the surer logits are, the nearer they
lie to each other."""
FEW = 4
"""The variety of fewer recognised images than this says nothing."""


@torch.no_grad()
def keep_what_helps(
    state: TokenState, learned: list[int], source: ImageSource, learning: TokenLearning, batch: int
) -> None:
    """Of a learned token and its start keep the better, and neither if it is no better than the plain prompt.

    Better is a smaller mean cross-entropy of finished images, whose noise is the same for all and no update has read;
    than the plain prompt by more than SURE standard errors of the differences between images of one noise. Where the
    difference is smaller either way, the check goes on with twice the images, up to `check_doublings` times. A token
    that helps is refused where the class's images are nearly all alike: see `variety`.
    """
    rows, outcomes = state.rows.detach(), state.outcome.clone()
    ends, starts = rows.clone(), state.start
    seen: dict[int, list[list[Tensor]]] = {number: [[], [], []] for number in learned}
    undecided, first, last = learned, 0, learning.check_images
    for _ in range(learning.check_doublings + 1):
        for way, tokens in enumerate((None, ends, starts)):
            if tokens is not None:
                rows[undecided] = tokens[undecided]
            found = _finished(
                state, undecided, tokens is not None, range(first, last), source, learning, batch
            )
            for number, more in found.items():
                seen[number][way].append(more)
        still = []
        for number in undecided:
            target = state.classes[number]
            plain, end, start = (torch.cat(logits) for logits in seen[number])
            before, ended, started = (_losses(logits, target) for logits in (plain, end, start))
            start_is_better = bool(started.mean() < ended.mean())
            rows[number] = (starts if start_is_better else ends)[number]
            logits, loss = (start, started) if start_is_better else (end, ended)
            gain = before - loss
            chance = SURE[learning.check_doublings] * gain.std() / last**0.5
            helps = bool(gain.mean() > chance)
            state.outcome[number] = outcomes[number] if helps else int(Outcome.NO_BETTER)
            state.variety[number] = variety(logits, plain, target)
            if helps and state.variety[number] < ALIKE_BELOW:
                state.outcome[number] = int(Outcome.ALIKE)
            right = (logits.argmax(1) == target).double().mean()
            state.loss[number], state.accuracy[number] = loss.mean(), right
            state.finished[number], state.checked[number] = right, 1
            if gain.mean().abs() <= chance:
                still.append(number)
        undecided, first, last = still, last, 2 * last
        if not undecided:
            break


def _finished(
    state: TokenState,
    numbers: list[int],
    with_tokens: bool,
    images: range,
    source: ImageSource,
    learning: TokenLearning,
    batch: int,
) -> dict[int, Tensor]:
    """The logits of some images of the check, float64: (len(images), classes) by class."""
    found: dict[int, list[Tensor]] = {number: [] for number in numbers}
    context = source.encode(classes_of(state, numbers), with_tokens)
    for part in draw(state, numbers, context, source, learning, batch, check=images):
        logits = part.drawn.finished(range(len(part.numbers))).double().cpu()
        for number, row in zip(part.numbers.tolist(), logits, strict=True):
            found[number].append(row)
        count(state, part)
        del part  # before the next one is drawn
    return {number: torch.stack(rows) for number, rows in found.items()}


def _losses(logits: Tensor, target: int) -> Tensor:
    """Cross-entropy of each image, (N,) float64, of logits (N, C)."""
    targets = torch.full((len(logits),), target)
    return cross_entropy(logits.float(), targets, reduction="none").double()


def variety(logits: Tensor, plain: Tensor, target: int) -> float:
    """How far apart a class's images are, as a share of how far the plain prompt's are; NaN where that is unknown.

    Of logits (N, C) those count that recognise the class: what a name is mistaken for differs in another way. The
    distance is the mean over pairs. It is all that a classifier without data tells of coverage within a class.
    """
    recognised = [rows[rows.argmax(1) == target] for rows in (logits, plain)]
    if min(map(len, recognised)) < FEW:
        return torch.nan
    ours, usual = (torch.pdist(rows).mean().item() for rows in recognised)
    return ours / usual if usual else torch.nan
