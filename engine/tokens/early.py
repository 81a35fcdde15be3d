"""The gradient of finished images with respect to early predictions, at constant velocity of the network.

    z'     = signal' x0 + k n,   k = sqrt(noise'^2 - s^2) of a step that renews noise of deviation s
    dz'/dx0 at z                     = signal' - k signal / noise
    dz'/dz at the network's velocity = signal' signal + k noise       (a flow: signal' + k)

A change of the clean latent that step t predicts goes on to the finished one by the first at t, times the second at
each later step. So a gradient can be taken through few early steps, which decide what an image shows, without holding
the graph of a run (DRTune, arXiv 2405.00760, which also leaves out how the network's input depends on steps before).
"""

import math
from collections.abc import Sequence

import torch

from engine.priors.steps import Step

EARLY_STEPS = 3
"""How many of them carry a gradient."""
EARLY = 0.7
"""The part of a schedule, from its start, that they are drawn from."""
VARIANCE_PRESERVING = 1e-3
"""How far signal^2 + noise^2 may be from 1; that of a flow falls to a half."""


def early_pool(steps: int) -> int:
    """How many steps the early ones are drawn from."""
    return max(1, round(EARLY * steps))


def early_steps(steps: int, rng: torch.Generator) -> list[int]:
    """The numbers of EARLY_STEPS early steps of a schedule, or of as many as it has, ascending."""
    pool = early_pool(steps)
    return sorted(torch.randperm(pool, generator=rng)[:EARLY_STEPS].tolist())


def propagation_factor(schedule: Sequence[Step], number: int, eta: float) -> float:
    """The factor by which a change of the clean latent of a step reaches the finished latents."""
    step = schedule[number]
    factor = step.signal_next - _kept(step, eta) * step.signal / step.noise
    for later in schedule[number + 1 :]:
        own = later.signal, later.noise
        if abs(later.signal**2 + later.noise**2 - 1) > VARIANCE_PRESERVING:
            own = 1.0, 1.0
        factor *= later.signal_next * own[0] + _kept(later, eta) * own[1]
    return factor


def _kept(step: Step, eta: float) -> float:
    """The factor of the old noise after a step."""
    return math.sqrt(max(step.variance_next - (eta * step.fresh) ** 2, 0.0))
