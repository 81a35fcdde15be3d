"""Adam on the rows of a token table: each row by itself, or the rows that learn side by side as one 8-bit parameter."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from engine.errors import MissingExtraError, brief
from engine.tokens.state import TokenState

ADAM_BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8
KEPT = ("state1", "state2", "absmax1", "absmax2")
"""What bitsandbytes keeps of a parameter besides its step; the last two in 8 bit alone."""


class RowOptimizer(Protocol):
    """Moves some rows of a state (their numbers) down their gradients (n, D), and no other row."""

    def step(self, numbers: list[int], grad: Tensor) -> None: ...


class RowAdam:
    """Each row has its own moments and its own count of updates."""

    def __init__(self, state: TokenState, learning_rate: float) -> None:
        self.state = state
        self.learning_rate = learning_rate

    def step(self, numbers: list[int], grad: Tensor) -> None:
        adam_update(self.state, numbers, grad, self.learning_rate)


@torch.no_grad()
def adam_update(state: TokenState, numbers: list[int], grad: Tensor, learning_rate: float) -> None:
    """One step of Adam (arXiv 1412.6980, algorithm 1) on some rows alone, each with its own count; grad: (n, D)."""
    beta1, beta2 = ADAM_BETAS
    state.updates[numbers] += 1
    state.momentum[numbers] = beta1 * state.momentum[numbers] + (1 - beta1) * grad
    state.square[numbers] = beta2 * state.square[numbers] + (1 - beta2) * grad.square()
    count = state.updates[numbers, None].to(grad.device, grad.dtype)
    mean = state.momentum[numbers] / (1 - beta1**count)
    square = state.square[numbers] / (1 - beta2**count)
    state.rows[numbers] -= learning_rate * mean / (square.sqrt() + ADAM_EPS)


class JointAdam8bit:
    """bitsandbytes' 8-bit Adam on the rows of a cohort as one parameter (n, D).

    Below n D = 4,096 elements bitsandbytes keeps its moments in 32 bit. The count of steps is the cohort's: its classes
    begin together. A row that has stopped, or whose gradient is not finite, gets a zero gradient, which lets its
    moments fade, and stays where it was, though momentum would carry it on. The moments live in `state.joint`, so
    that a run that is cut goes on with them.
    """

    def __init__(self, state: TokenState, cohort: range, learning_rate: float) -> None:
        self.state = state
        self.cohort = cohort
        self.table = nn.Parameter(state.rows.detach()[cohort.start : cohort.stop].clone())
        self.optimizer = adam_8bit()([self.table], lr=learning_rate, betas=ADAM_BETAS, eps=ADAM_EPS)
        self.optimizer.init_state(self.optimizer.param_groups[0], self.table, 0, 0)
        self.moments: dict[str, Any] = self.optimizer.state[self.table]
        if state.joint:
            self.moments["step"] = int(state.joint["step"])
            for name in KEPT:
                if name in self.moments:
                    self.moments[name].copy_(state.joint[name])

    @torch.no_grad()
    def step(self, numbers: list[int], grad: Tensor) -> None:
        if not numbers:
            return
        places = [number - self.cohort.start for number in numbers]
        self.table.copy_(self.state.rows[self.cohort.start : self.cohort.stop])
        self.table.grad = torch.zeros_like(self.table)
        self.table.grad[places] = grad
        self.optimizer.step()
        self.state.rows[numbers] = self.table[places]
        self.state.updates[numbers] += 1
        self.state.joint = {
            name: self.moments[name].clone() for name in KEPT if name in self.moments
        }
        self.state.joint["step"] = torch.tensor(self.moments["step"])


class Capped:
    """Shortens rows that an optimiser made too long.

    limits: of the columns that a text encoder reads, and the norm that they may have.
    """

    def __init__(
        self, inner: RowOptimizer, state: TokenState, limits: Sequence[tuple[slice, float]]
    ) -> None:
        self.inner, self.state, self.limits = inner, state, limits

    @torch.no_grad()
    def step(self, numbers: list[int], grad: Tensor) -> None:
        self.inner.step(numbers, grad)
        for span, longest in self.limits:
            part = self.state.rows[numbers, span]
            norm = part.norm(dim=1, keepdim=True).clamp_min(torch.finfo(part.dtype).tiny)
            self.state.rows[numbers, span] = part * (longest / norm).clamp(max=1)


def row_optimizer(
    kind: str,
    state: TokenState,
    cohort: range,
    learning_rate: float,
    limits: Sequence[tuple[slice, float]] = (),
) -> RowOptimizer:
    """The optimiser that `TokenLearning.optimizer` names, for the rows of one cohort; limits: see `Capped`."""
    if kind == "adam":
        inner: RowOptimizer = RowAdam(state, learning_rate)
    else:
        inner = JointAdam8bit(state, cohort, learning_rate)
    return Capped(inner, state, limits) if limits else inner


def adam_8bit() -> Any:
    """bitsandbytes' 8-bit Adam. Raises MissingExtraError where it cannot be imported."""
    try:
        from bitsandbytes.optim import Adam8bit
    except (ImportError, OSError) as error:
        raise MissingExtraError(
            f"bitsandbytes cannot be imported ({brief(error)}), expected the package of the extra 'gpu' for the "
            "optimizer 'adam8bit': install it with `pip install 'ddis[gpu]'`, or learn with the optimizer 'adam'."
        ) from error
    return Adam8bit
