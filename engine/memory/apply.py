"""Carry a plan out: attention kernels, parts that rest off the device, and what a plan must fit."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import prod

import torch

from engine.classifiers.base import Classifier
from engine.errors import ConfigError
from engine.guidance.decoder import decoder_of
from engine.memory.attention import attending, chosen_attention
from engine.memory.budget import AUTO, free_bytes
from engine.memory.costs import LEARNING, PHASES
from engine.memory.graphs import eager_because
from engine.memory.layout import chosen_layouts
from engine.memory.plan import Plan, plan
from engine.memory.recompute import checkpointed
from engine.memory.residence import IN_TURN, NEEDED, resting_bytes
from engine.priors import Prior
from engine.priors.interface import Role
from engine.priors.resting import REST, on_device, one_at_a_time
from engine.priors.size import in_px
from engine.priors.vae import decoding_in_parts
from engine.settings import AUTO_ATTENTION, Alignment, Sampling, TokenLearning

InPhase = Callable[[str], AbstractContextManager[None]]
"""Gives the block in which a phase's parts are on the device."""
DRAWING: tuple[Role, ...] = ("denoiser", "decoder")
"""Roles of the components that images are drawn with."""


SDPA = "sdpa"
"""The attention that the networks compute without a plan."""
KEPT = 4096
"""Bytes that a phase holds for a byte of its images, at most: the full VAE of Stable Diffusion keeps 1,900 with its
graph, and no phase of `generate` more."""
KEPT_LEARNING = 4 * KEPT
"""The same of token learning, which has the graph of denoiser and VAE at once, about 4,600."""


def plan_of(
    memory: str | int | Plan | None,
    prior: Prior,
    classifier: Classifier,
    batch: int,
    alignment: Alignment | None,
    sampling: Sampling,
    learning: TokenLearning | None = None,
    attention: str = AUTO_ATTENTION,
    graphs: bool = True,
) -> Plan | None:
    """The plan of a run on loaded models: the one given, one for a budget, None for None and where 'auto' needs none.

    learning: of tokens, where the run learns them. attention, graphs: as `plan` takes them; a plan that is given has
    its own.

    'auto' spares the counting where memory is plentiful: where KEPT bytes for each byte of image are a part of what is
    free. The CPU then needs no plan, and a GPU one of layout and graphs alone.
    """
    if isinstance(memory, Plan):
        check_plan(memory, prior)
        _check_decoder(memory, prior, classifier, alignment)
        _check_learning(memory, learning)
        if attention not in (AUTO_ATTENTION, memory.attention):
            raise ConfigError(
                f"attention is {attention!r} and the memory plan has {memory.attention!r}, expected one of them: leave "
                "one out, or plan again."
            )
        return memory
    if memory is None and attention == AUTO_ATTENTION:
        return None
    attention = chosen_attention(attention, prior.device, prior.dtype)
    if memory is None and attention == SDPA:
        return None
    memory = AUTO if memory is None else memory
    if attention == SDPA and isinstance(memory, str) and memory.strip().lower() == AUTO:
        images = batch * 3 * prod(prior.image_size) * prior.dtype.itemsize
        free = free_bytes(prior.device) - resting_bytes(prior)
        if (KEPT_LEARNING if learning else KEPT) * images <= free:
            if prior.device.type != "cuda":
                return None
            return uncounted(prior, classifier, free, batch, alignment, learning, graphs)
    return plan(
        prior,
        classifier,
        memory,
        batch=batch,
        alignment=alignment,
        sampling=sampling,
        attention=attention,
        tokens=learning or False,
        full=False,
        graphs=graphs,
    )


def uncounted(
    prior: Prior,
    classifier: Classifier,
    free: int,
    batch: int,
    alignment: Alignment | None,
    learning: TokenLearning | None,
    graphs: bool,
) -> Plan:
    """A plan for more than enough memory, `free` bytes: nothing is divided, and no peak is counted."""
    decoder = decoder_of(alignment, prior, classifier.preprocess) if alignment else None
    micro_batch = dict.fromkeys((*PHASES, *(LEARNING if learning else ())), batch)
    return Plan(
        prior=prior.name,
        classifier=classifier.name,
        device=str(prior.device),
        dtype=str(prior.dtype).removeprefix("torch."),
        image_px=prior.image_size[0],
        image_width_px=prior.image_size[1],
        batch=batch,
        budget_bytes=free,
        attention=SDPA,
        decoder=decoder.kind if decoder else "none",
        decode_px=decoder.px if decoder else 0,
        micro_batch=dict.fromkeys(LEARNING, 0) | micro_batch,
        checkpoint=(),
        staged=(),
        offload=(),
        tile=0,
        channels_last=chosen_layouts(prior.device, prior, classifier),
        eager_because=eager_because(
            graphs, prior.device, learning is not None, batch, micro_batch, (), ()
        ),
        graph_bytes=0,
        peak_bytes={},
        largest_batch=0,
        smallest_bytes=0,
        quantise=prior.quantise,
        weights_bytes={},
        cost=0.0,
    )


@contextmanager
def applied(planned: Plan | None, prior: Prior) -> Iterator[InPhase]:
    """Inside the block the prior works as a plan says; yields what to wrap each phase in. After it, all is as before.

        with applied(plan, prior) as phase:
            with phase("text"):
                context = prior.encode(prompts)

    Parts that the plan offloads are on the device in phases that need them, and in main memory else; where no gradient
    is taken, one after the other. Checkpointing of guidance is its decoder's (`decoder_of`), that of token learning is
    switched by `phase("cat")`. Without a plan nothing is done.
    """
    if planned is None:
        yield lambda name: nullcontext()
        return
    check_plan(planned, prior)
    home = prior.device
    resting = [part for part in prior.components() if part.name in planned.offload]
    drawing = {part.role: part.module for part in prior.components() if part.role in DRAWING}

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        awake = [part.module for part in resting if part.role in NEEDED[name]]
        present = one_at_a_time if name in IN_TURN else on_device
        learned_through = drawing.values() if name == "cat" and "cat" in planned.checkpoint else ()
        with (
            present(awake, home),
            checkpointed(learned_through),
            decoding_in_parts(prior.vae, tile=planned.tile if name == "decode" else 0),
        ):
            yield

    with attending([*drawing.values()], planned.attention, home):
        places = [next(part.module.parameters()).device for part in resting]
        try:
            for part in resting:
                part.module.to(REST)
            yield phase
        finally:
            for part, place in zip(resting, places, strict=True):
                part.module.to(place)


def settle(planned: Plan | None, prior: Prior) -> None:
    """Bring those networks of a prior to its device that do not rest by a plan: without one all."""
    for part in prior.components():
        if planned is None or part.name not in planned.offload:
            part.module.to(prior.device)


def check_plan(planned: Plan, prior: Prior) -> None:
    """Raise ConfigError where a plan was made for another prior than the loaded one."""
    kind = torch.device(planned.device).type
    size = in_px(planned.image_px, planned.image_width_px)
    made_for = (planned.dtype, size, kind, planned.quantise)
    dtype = str(prior.dtype).removeprefix("torch.")
    loaded = (dtype, in_px(*prior.image_size), prior.device.type, prior.quantise)
    if made_for != loaded:
        says = "in {} at {} on {} with quantise {!r}"
        raise ConfigError(
            f"the memory plan is for a prior {says.format(*made_for)}, expected one for {prior.name!r} as it is "
            f"loaded, {says.format(*loaded)}: plan again for it, or load it so."
        )


def _check_decoder(
    planned: Plan, prior: Prior, classifier: Classifier, alignment: Alignment | None
) -> None:
    """Raise ConfigError where guidance looks through another decoder than the plan has room for."""
    if alignment is None:
        return
    decoder = decoder_of(alignment, prior, classifier.preprocess)
    if (planned.decoder, planned.decode_px) != (decoder.kind, decoder.px):
        raise ConfigError(
            f"the memory plan is for guidance through the {planned.decoder} decoder at {planned.decode_px} px, "
            f"expected one for the {decoder.kind} decoder at {decoder.px} px, which the alignment asks for: plan "
            "again with the same alignment."
        )


def _check_learning(planned: Plan, learning: TokenLearning | None) -> None:
    """Raise ConfigError where tokens are to be learned and a plan has no room for it."""
    if learning is not None and not all(planned.micro_batch[phase] for phase in LEARNING):
        raise ConfigError(
            "the memory plan has no room for token learning, expected parts of at least one image for its phases "
            f"{' and '.join(LEARNING)}: plan again with tokens=<the TokenLearning of the run>."
        )
