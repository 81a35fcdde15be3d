"""Learning class alignment tokens (paper, section 3.3): only a class's own embedding row S_c moves.

    loss(c)  = mean over an epoch's images of cross_entropy(f(x_0), c),   x_0 = the guided sampler's final image,
                 or the clean image that an early step predicts
    S_c     <- Adam(dloss/dS_c), the gradient taken through one denoising step alone (paper: the last)

An epoch is one update. Classes learn side by side, so that a batch may mix them; each has its own early stop. Nothing
here knows a file or a progress bar: `learn` advances a `TokenState` and reports, and may be left after any report.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from engine.config import Sampling, TokenLearning
from engine.errors import GuidanceError
from engine.models.prior import Prior
from engine.sampling.ddim import OnStep, Steer, sample
from engine.sampling.noise import ImageNoise
from engine.types import ImageKey, image_rng

ADAM_BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8
DRAWN_FROM = (0.1, 0.6)
"""The part of a schedule that a gradient's step is drawn from."""
MAX_SKIPPED = 0.1
"""The share of a class's updates that may be skipped for a gradient that is not finite."""

LogitsOf = Callable[[Sequence[ImageKey], bool], Tensor]
"""(images to make, whether with tokens) -> the classifier's logits (N, K) of them, differentiable by the rows."""


class Outcome(IntEnum):
    """Where a class stands."""

    WAITING = 0
    LEARNING = 1
    PASSES_WITHOUT = 2
    RECOGNISED = 3
    EPOCHS_USED_UP = 4


@dataclass(frozen=True)
class TokenEpoch:
    """One epoch of one class: accuracy and mean loss of its images before the update. Epoch 0 is the plain prompt."""

    class_index: int
    epoch: int
    accuracy: float
    loss: float
    outcome: Outcome


@dataclass
class TokenState:
    """All that learning K tokens of width D depends on between two updates; every field but `classes` is a tensor.

    rows: (K, D) float32, the leaf that gradients reach. momentum, square: (K, D), Adam's moments. The others: (K,).
    """

    classes: tuple[int, ...]
    rows: Tensor
    momentum: Tensor
    square: Tensor
    updates: Tensor
    skipped: Tensor
    epochs: Tensor
    accuracy: Tensor
    loss: Tensor
    outcome: Tensor

    @classmethod
    def at_start(cls, classes: Sequence[int], rows: Tensor) -> "TokenState":
        """Nothing learned yet: rows (K, D) as they shall begin."""
        count = torch.zeros(len(classes), dtype=torch.int64)
        return cls(
            classes=tuple(classes),
            rows=rows.detach().clone().requires_grad_(),
            momentum=torch.zeros_like(rows),
            square=torch.zeros_like(rows),
            updates=count.clone(),
            skipped=count.clone(),
            epochs=count.clone(),
            accuracy=torch.zeros(len(classes), dtype=torch.float64),
            loss=torch.zeros(len(classes), dtype=torch.float64),
            outcome=count.clone(),
        )

    def those(self, outcome: Outcome, among: range) -> list[int]:
        """The rows' numbers, of some, that stand at an outcome."""
        return [number for number in among if self.outcome[number] == outcome]


def learning_key(class_index: int, epoch: int, image: int, images_per_epoch: int) -> ImageKey:
    """The key of a learning image. It counts down from -2, and generation up from 0, so they never share a seed."""
    return ImageKey(class_index, -2 - (epoch * images_per_epoch + image))


def initial_rows(prior: Prior, classes: Sequence[int], labels: Sequence[str], init: str, seed: int) -> Tensor:
    """Where the tokens of some classes start: (K, D) float32, by the rule that `TokenLearning.init` names.

    random: normal, with the mean and deviation of the text encoder's embeddings, seeded by class (image number -1).
    """
    table = prior.text_encoder.get_input_embeddings().weight.detach().float().cpu()

    def mean_row(text: str) -> Tensor:
        ids = prior.tokenizer(text.replace("_", " "), add_special_tokens=False).input_ids
        return table[ids].mean(0)

    def random_row(class_index: int) -> Tensor:
        rng = image_rng(seed, ImageKey(class_index, -1))
        return table.mean() + table.std() * torch.randn(table.shape[1], generator=rng)

    if init == "random":
        return torch.stack([random_row(number) for number in classes])
    return torch.stack([mean_row("a" if init == "a" else labels[number]) for number in classes])


def gradient_step(gradient: str, steps: int, rng: torch.Generator) -> int:
    """The number of the step that carries the gradient, by the rule that `TokenLearning.gradient` names.

    drawn: from the part DRAWN_FROM of the schedule; the last step if there is no other.
    """
    if gradient == "last":
        return steps - 1
    first, end = (round(share * steps) for share in DRAWN_FROM)
    return int(torch.randint(first, max(end, first + 1), (), generator=rng))


def final_images(
    prior: Prior,
    prompts: Sequence[str],
    noise: ImageNoise,
    sampling: Sampling,
    steer: Steer,
    on_step: OnStep | None = None,
    at: int | None = None,
) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] of prompts from their noise, as generation makes them.

    Only the last denoising step and the decoder hold a graph: it leads to the prompts' embeddings. With `at`, the
    images are the clean ones that the step of this number predicts, and it is the step with the graph.
    """
    different = list(dict.fromkeys(prompts))
    context = prior.encode_prompts(different)[[different.index(prompt) for prompt in prompts]]
    denoise = prior.denoiser(context, prior.encode_prompts([sampling.negative_prompt]), sampling.cfg)
    schedule = prior.schedule(sampling.steps)
    graph = len(schedule) - 1 if at is None else at
    with torch.no_grad():
        z = sample(noise.draw(), denoise, schedule[:graph], steer, on_step, sampling.eta, noise)
    if graph < len(schedule) - 1:
        return prior.decode(denoise(z, schedule[graph]).clean)
    return prior.decode(sample(z, denoise, schedule[graph:], steer, on_step, sampling.eta, noise))


def learn(
    state: TokenState, logits_of: LogitsOf, learning: TokenLearning, batch: int
) -> Iterator[list[TokenEpoch]]:
    """Learn the tokens of a state, up to `batch` classes side by side; yields after each epoch that they share.

    When a report is yielded the state is whole: saved, loaded and given to `learn` again, it goes on to the same end.
    Raises GuidanceError once more than a tenth of a class's updates had to be skipped.
    """
    for start in range(0, len(state.classes), batch):
        cohort = range(start, min(start + batch, len(state.classes)))
        waiting = state.those(Outcome.WAITING, cohort)
        if waiting and learning.skip_passing:
            with torch.no_grad():
                passes, _ = _measure(state, waiting, logits_of, learning, batch, plain=True)
            state.outcome[waiting] = torch.where(passes, Outcome.PASSES_WITHOUT, Outcome.LEARNING)
            yield _report(state, waiting)
        elif waiting:
            state.outcome[waiting] = Outcome.LEARNING
        while learners := state.those(Outcome.LEARNING, cohort):
            _learn_epoch(state, learners, logits_of, learning, batch)
            yield _report(state, learners)


def _learn_epoch(
    state: TokenState, learners: list[int], logits_of: LogitsOf, learning: TokenLearning, batch: int
) -> None:
    """Measure an epoch of some classes, stop those that pass and update the others."""
    state.epochs[learners] += 1
    with torch.enable_grad():
        passes, grad = _measure(state, learners, logits_of, learning, batch)
    moving = [number for number, done in zip(learners, passes.tolist(), strict=True) if not done]
    finite = [number for number in moving if grad[number].isfinite().all()]
    adam_update(state, finite, grad[finite], learning.learning_rate)
    state.skipped[[number for number in moving if number not in finite]] += 1
    state.outcome[learners] = torch.where(passes, Outcome.RECOGNISED, Outcome.LEARNING)
    ended = [number for number in moving if state.epochs[number] >= learning.epochs]
    state.outcome[ended] = Outcome.EPOCHS_USED_UP
    _check_skipped(state, learners, learning)


def _measure(
    state: TokenState,
    chosen: list[int],
    logits_of: LogitsOf,
    learning: TokenLearning,
    batch: int,
    plain: bool = False,
) -> tuple[Tensor, Tensor]:
    """Make an epoch's images of some classes, classes mixed, and record their accuracy and loss.

    Returns which of the classes pass, (len(chosen),) bool, and the gradient of the sum of their losses by the rows,
    (K, D); it is zero with plain prompts.
    """
    total = learning.images_per_epoch
    jobs = [
        (number, learning_key(state.classes[number], int(state.epochs[number]), image, total))
        for image in range(total)
        for number in chosen
    ]
    grad = torch.zeros_like(state.rows, requires_grad=False)
    state.accuracy[chosen], state.loss[chosen] = 0.0, 0.0
    groups = -(-len(jobs) // batch)
    for group in range(groups):
        part = jobs[len(jobs) * group // groups : len(jobs) * (group + 1) // groups]
        numbers = torch.tensor([number for number, _ in part])
        targets = torch.tensor([key.class_index for _, key in part])
        logits = logits_of([key for _, key in part], not plain)
        losses = cross_entropy(logits, targets.to(logits.device), reduction="none")
        if not plain:
            grad += torch.autograd.grad(losses.sum() / total, state.rows)[0]
        state.accuracy.index_add_(0, numbers, (logits.detach().argmax(1).cpu() == targets).double())
        state.loss.index_add_(0, numbers, losses.detach().double().cpu())
    state.accuracy[chosen] /= total
    state.loss[chosen] /= total
    return state.accuracy[chosen] > learning.target_accuracy, grad


@torch.no_grad()
def adam_update(state: TokenState, numbers: list[int], grad: Tensor, learning_rate: float) -> None:
    """One step of Adam (arXiv 1412.6980, algorithm 1) on some rows alone, each with its own count; grad: (n, D)."""
    beta1, beta2 = ADAM_BETAS
    state.updates[numbers] += 1
    state.momentum[numbers] = beta1 * state.momentum[numbers] + (1 - beta1) * grad
    state.square[numbers] = beta2 * state.square[numbers] + (1 - beta2) * grad.square()
    count = state.updates[numbers, None].to(grad.dtype)
    mean = state.momentum[numbers] / (1 - beta1**count)
    square = state.square[numbers] / (1 - beta2**count)
    state.rows[numbers] -= learning_rate * mean / (square.sqrt() + ADAM_EPS)


def _report(state: TokenState, numbers: list[int]) -> list[TokenEpoch]:
    return [
        TokenEpoch(
            state.classes[number],
            int(state.epochs[number]),
            float(state.accuracy[number]),
            float(state.loss[number]),
            Outcome(int(state.outcome[number])),
        )
        for number in numbers
    ]


def _check_skipped(state: TokenState, learners: list[int], learning: TokenLearning) -> None:
    for number in learners:
        if state.skipped[number] > MAX_SKIPPED * learning.epochs:
            raise GuidanceError(
                f"{int(state.skipped[number])} updates of class {state.classes[number]}'s token had a gradient that is "
                f"NaN or infinite, expected at most {MAX_SKIPPED:.0%} of {learning.epochs}: lower cfg or the "
                "alignment scale, or use the prior in float32."
            )
