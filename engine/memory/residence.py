"""Which of a prior's networks are on the device in each phase, and which may rest in main memory."""

from collections.abc import Iterator, Mapping
from itertools import chain, combinations

import torch

from engine.memory.subject import Subject, weights_bytes
from engine.priors import Prior
from engine.priors.interface import Role

OFFLOADABLE: tuple[Role, ...] = ("text encoder", "decoder", "denoiser")
"""Roles whose components may rest off the device; components of one role are offloaded together."""
NEEDED: Mapping[str, frozenset[Role]] = {
    "text": frozenset({"text encoder"}),
    "sampling": frozenset({"denoiser"}),
    "guidance": frozenset({"denoiser"}),
    "decode": frozenset({"decoder"}),
    "polish": frozenset(),
    "cat": frozenset({"denoiser", "decoder"}),
    "rows": frozenset({"text encoder"}),
}
"""Those of the OFFLOADABLE roles that each phase uses. Guidance runs within sampling, at each step."""
IN_TURN = ("text",)
"""Phases without a gradient, in which resting networks are loaded one at a time."""


def offloads(subject: Subject, device: torch.device) -> Iterator[tuple[str, ...]]:
    """Yield the sets of components that may be offloaded: on the CPU only the empty one, never guidance's decoder."""
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
    """Bytes of the weights of networks that are not on the prior's device."""
    seen: set[int] = set()
    return sum(
        weights_bytes(part.module, seen)
        for part in prior.components()
        if any(value.device != prior.device for value in part.module.parameters())
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
