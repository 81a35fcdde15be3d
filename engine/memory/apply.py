"""Carry a plan out: attention kernels, parts that rest off the device, and what a plan must fit."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from engine.errors import ConfigError
from engine.memory.attention import attending
from engine.memory.costs import NEEDED
from engine.memory.plan import Plan
from engine.models.prior import Prior

InPhase = Callable[[str], AbstractContextManager[None]]
"""Gives the block in which a phase's parts are on the device."""
REST = torch.device("cpu")


@contextmanager
def applied(plan: Plan | None, prior: Prior) -> Iterator[InPhase]:
    """Inside the block the prior works as a plan says; it yields what to wrap each phase in. After it, all is as before.

        with applied(plan, prior) as phase:
            with phase("text"):
                context = prior.encode_prompts(prompts)

    Parts that the plan offloads are on the device in phases that need them, and in main memory else. Checkpointing of
    guidance is its decoder's (`decoder_of`), that of token learning is switched by `phase("cat")`. Without a plan
    nothing is done.
    """
    if plan is None:
        yield lambda name: nullcontext()
        return
    check_plan(plan, prior)
    home = prior.device
    parts: dict[str, nn.Module] = {"text_encoder": prior.text_encoder, "vae": prior.vae}
    resting = {name: parts[name] for name in plan.offload}

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        awake = [part for part_name, part in resting.items() if part_name in NEEDED[name]]
        networks = [prior.unet, prior.vae] if name == "cat" and "cat" in plan.checkpoint else []
        try:
            for part in awake:
                part.to(home)
            for network in networks:
                network.enable_gradient_checkpointing()
            yield
        finally:
            for part in awake:
                part.to(REST)
            for network in networks:
                network.disable_gradient_checkpointing()

    with attending([prior.unet, prior.vae], plan.attention, home):
        try:
            for part in resting.values():
                part.to(REST)
            yield phase
        finally:
            for part in resting.values():
                part.to(home)


def check_plan(plan: Plan, prior: Prior) -> None:
    """Raise ConfigError where a plan was made for another prior than the loaded one."""
    planned = (plan.dtype, plan.image_px, torch.device(plan.device).type)
    loaded = (str(prior.dtype).removeprefix("torch."), prior.image_px, prior.device.type)
    if planned != loaded:
        raise ConfigError(
            f"the memory plan is for a prior in {planned[0]} at {planned[1]} px on {planned[2]}, expected one for "
            f"{prior.name!r} as it is loaded, in {loaded[0]} at {loaded[1]} px on {loaded[2]}: plan again for it, or "
            "load it so."
        )
