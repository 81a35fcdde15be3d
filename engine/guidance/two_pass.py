"""The gradient of a loss over a large batch with the graph of a small one in memory, exactly.

A loss that adds up over images takes one pass of each part (`part_by_part`). L_BN over the batch does not:

    dL/dx = A_c + B_c x  for the input x of each BatchNorm layer, with A and B functions of the whole batch's moments

First pass, without gradients: the moments of each micro-batch, merged (Chan). A and B follow from these. Second pass:
the gradient of sum A x + B x^2 / 2 for each micro-batch. It costs one more forward pass, and approximates nothing.
"""

from collections.abc import Callable
from functools import partial

import torch
from ddis_kernels import alignment_coefficients, micro_batch_loss
from torch import Tensor

from engine.errors import ConfigError
from engine.guidance.domain import Domain
from engine.guidance.gradient import LossScale, gradient
from engine.guidance.moments import merged
from engine.types import Moments


def two_pass(
    z: Tensor,
    forward: Callable[[Tensor, int], object],
    domain: Domain,
    micro_batch: int,
    scale: LossScale = 1.0,
    also: Callable[[object, int], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """L_BN over the batch, (1,), and its gradient by z: (B, ...), as `gradient` gives both.

    Args:
        z: what the images are made from, (B, ...).
        forward: (some rows of z, the number of the first) -> what the domain's network gives for the images that they
            stand for, run once, as by `lambda rows, start: classifier.logits(prior.decode(rows, clamp=False))`. No row
            may depend on another in it, and a layer must read as many values of one row as of another.
        domain: the term L_BN, over all rows.
        micro_batch: the number of rows to hold a graph for. A batch that is no larger takes one pass.
        scale: as `gradient` takes it.
        also: (what `forward` gave, the number of its first row) -> another scalar term of the loss, which adds up over
            rows.
    """
    if micro_batch < 1:
        raise ConfigError(
            f"micro_batch is {micro_batch}, expected at least 1: give a positive whole number."
        )
    extra = also or (lambda output, start: z.new_zeros(()))
    with domain.measured() as measured:

        def whole(rows: Tensor) -> Tensor:
            output = forward(rows, 0)
            return domain.loss(measured).reshape(1) + extra(output, 0)

        if len(z) <= micro_batch:
            return gradient(z, whole, scale)
        moments, more = _first_pass(z, forward, extra, measured, micro_batch)
        # A row counts as one of its values would: moments are means, and the number of values in a row cancels.
        whole_moments, rows_each = domain.compared(moments), [len(z)] * len(moments)
        loss, coefficients = alignment_coefficients(whole_moments, domain.target, rows_each)
        values = loss.reshape(1) + more
        by = scale(values) if callable(scale) else scale

        def part(rows: Tensor, start: int) -> Tensor:
            output = forward(rows, start)
            own = domain.compared(measured)
            return micro_batch_loss(coefficients, own, [len(rows)] * len(own)) + extra(
                output, start
            )

        gradients = [
            gradient(z[start : start + micro_batch], partial(part, start=start), by)[1]
            for start in range(0, len(z), micro_batch)
        ]
    return values, torch.cat(gradients)


def part_by_part(
    z: Tensor, loss: Callable[[Tensor, int], Tensor], micro_batch: int, scale: LossScale = 1.0
) -> tuple[Tensor, Tensor]:
    """The sum () of a loss over parts of z (B, ...), and its gradient, as `gradient` gives both.

    loss: (some rows of z, the number of the first) -> a scalar, which adds up over rows.
    """

    def part(start: int) -> tuple[Tensor, Tensor]:
        return gradient(z[start : start + micro_batch], lambda rows: loss(rows, start), scale)

    values, grads = zip(*map(part, range(0, len(z), micro_batch)), strict=True)
    return torch.stack(values).sum(), torch.cat(grads)


def _first_pass(
    z: Tensor,
    forward: Callable[[Tensor, int], object],
    extra: Callable[[object, int], Tensor],
    measured: list[Moments],
    micro_batch: int,
) -> tuple[list[Moments], Tensor]:
    """Moments of all rows of z at each layer, merged from those of the micro-batches, and the sum of `extra`."""
    moments: list[Moments] = []
    added: list[Tensor] = []
    seen = 0
    for rows in z.split(micro_batch):
        with torch.no_grad():
            added.append(extra(forward(rows, seen), seen))
        moments = merged(moments, measured, seen, len(rows))
        seen += len(rows)
    return moments, torch.stack(added).sum()
