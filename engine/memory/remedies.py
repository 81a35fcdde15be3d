"""What a budget that is too small would be enough for."""

import copy
from dataclasses import replace

import torch

from engine.memory.budget import in_words
from engine.memory.costs import Costs
from engine.memory.subject import Subject
from engine.networks.quantised import quantise
from engine.priors import Prior

NF4 = "nf4"


def remedies(costs: Costs, smallest: int) -> str:
    """What takes less memory than a request does, or another device's, of all that it does not have already.

    Each names its setting. smallest: the least budget of the request.
    """
    prior = costs.subject.prior
    found = [] if prior.tiny is not None else ["a tiny decoder (`tiny_decoder` 'auto')"]
    if prior.dtype == torch.float32:
        found.append("half precision (`dtype` 'float16')")
    if prior.quantise == "none":
        takes = smallest_in_nf4(costs)
        then = f", at least {in_words(takes)} then" if takes and takes < smallest else ""
        found.append(f"linear layers in 4.5 bits (`prior.quantise` 'nf4'{then})")
    if costs.device.type == "cuda" and not torch.cuda.is_available():
        found.append("a plan for this machine, which has no GPU (`device` 'cpu')")
    return "; or ".join(["; ".join(found), "smaller images"] if found else ["smaller images"])


def smallest_in_nf4(costs: Costs) -> int | None:
    """The smallest budget for the same request with linear layers in NF4.

    None where that is no way: for the CPU, whose memory is not scarce, and for a prior that is quantised already.
    """
    subject, device = costs.subject, costs.device
    if device.type != "cuda" or subject.prior.quantise != "none":
        return None
    return costs.of(in_nf4(subject)).smallest()


def in_nf4(subject: Subject) -> Subject:
    """The same with the linear layers of denoiser and text encoders in NF4. Its models are on 'meta'."""
    return replace(subject, prior=_quantised(subject.prior))


def _quantised(prior: Prior) -> Prior:
    twins = {
        part.name: copy.deepcopy(part.module)
        for part in prior.components()
        if part.role in ("denoiser", "text encoder")
    }
    for network in twins.values():
        quantise(network, NF4, torch.device("meta"))
    twin = prior.replaced(**twins)
    twin.quantise = NF4
    return twin
