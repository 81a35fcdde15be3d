"""Which of a prior's networks a phase has on the device, and which may rest in main memory meanwhile."""

from collections.abc import Iterator, Mapping
from itertools import chain, combinations

import torch

from engine.memory.subject import Subject, weights_bytes
from engine.priors import Prior
from engine.priors.interface import Role

OFFLOADABLE: tuple[Role, ...] = ("text encoder", "decoder", "denoiser")
"""Roles of a prior's components that may rest off the device, those of one role together."""
NEEDED: Mapping[str, frozenset[Role]] = {
    "text": frozenset({"text encoder"}),
    "sampling": frozenset({"denoiser"}),
    "guidance": frozenset({"denoiser"}),
    "decode": frozenset({"decoder"}),
    "cat": frozenset({"denoiser", "decoder"}),
    "rows": frozenset({"text encoder"}),
}
"""Of these, the roles that a phase works with. Guidance happens within sampling, step by step."""
IN_TURN = ("text",)
"""Phases without a gradient, in which resting networks come one after the other."""


def offloads(subject: Subject, device: torch.device) -> Iterator[tuple[str, ...]]:
    """Sets of components that may rest off a device: none on the CPU, nor what guidance looks through."""
    decoder = subject.decoder()
    stays = None if decoder is None else decoder.vae
    resting = {
        role: [
            part.name
            for part in subject.prior.components()
            if part.role == role and part.module is not stays
        ]
        for role in OFFLOADABLE
    }
    groups = [] if device.type == "cpu" else [*filter(None, resting.values())]
    for count in range(len(groups) + 1):
        for chosen in combinations(groups, count):
            yield tuple(chain.from_iterable(chosen))


def resting_bytes(prior: Prior) -> int:
    """Bytes of those networks that are not on the prior's device yet."""
    seen: set[int] = set()
    return sum(
        weights_bytes(part.module, seen)
        for part in prior.components()
        if next(part.module.parameters()).device != prior.device
    )


def bytes_on_device(
    phase: str, weights: Mapping[str, int], roles: Mapping[str, Role], offload: tuple[str, ...]
) -> int:
    """Bytes of weights that are on the device at once in a phase.

    weights: of each network by its name. roles: of those that are the prior's.
    """
    works = [name for name in offload if roles[name] in NEEDED[phase]]
    stay = sum(nbytes for name, nbytes in weights.items() if name not in offload)
    come = [weights[name] for name in works]
    return stay + (max(come, default=0) if phase in IN_TURN else sum(come))
