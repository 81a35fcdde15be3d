"""Which networks run with channels innermost in memory (channels_last), by a rule.

A CPU's convolutions read this layout without copies of their own, and so do tensor cores in half precision; torch's
GroupNorm brings its input back into the usual one and loses as much. So of tiny decoder and classifier, those that hold
convolutions and no GroupNorm take it: all on a CPU, those in half precision on CUDA. Nothing is timed: a layout changes
the last bits of a step, so two equal machines that timed it differently would make different images.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from engine.classifiers.base import Classifier
from engine.priors import Prior
from engine.priors.roles import TINY

HALF = (torch.float16, torch.bfloat16)


def chosen_layouts(device: torch.device, prior: Prior, classifier: Classifier) -> tuple[str, ...]:
    """The names of the networks that shall run channels_last on a device."""
    guided = {TINY: prior.tiny, "classifier": classifier.network}
    return tuple(
        name for name, network in guided.items() if network is not None and _gains(network, device)
    )


def _gains(network: nn.Module, device: torch.device) -> bool:
    kernels = [part.weight for part in network.modules() if isinstance(part, nn.Conv2d)]
    grouped = any(isinstance(part, nn.GroupNorm) for part in network.modules())
    if grouped or device.type not in ("cpu", "cuda"):
        return False
    return bool(kernels) and (
        device.type == "cpu" or all(kernel.dtype in HALF for kernel in kernels)
    )


def lay_out(channels_last: Iterable[str], prior: Prior, classifier: Classifier) -> None:
    """Put the weights of the networks that `chosen_layouts` named into channels_last, in place and for good.

    A classifier that cannot run so, such as one that calls `view` on its maps, keeps the usual layout.
    """
    networks: dict[str, Any] = {TINY: prior.tiny, "classifier": classifier.network}
    for name in channels_last:
        if networks[name] is None:
            continue
        networks[name].to(memory_format=torch.channels_last)
        if name == "classifier" and not _runs(classifier):
            networks[name].to(memory_format=torch.contiguous_format)


def lay_out_as_chosen(prior: Prior, classifier: Classifier) -> None:
    """The layouts of a run that has no plan."""
    lay_out(chosen_layouts(prior.device, prior, classifier), prior, classifier)


@torch.no_grad()
def _runs(classifier: Classifier) -> bool:
    blank = torch.zeros(2, 3, *(classifier.input_px,) * 2, device=classifier.device)
    try:
        classifier.logits(blank)
    except RuntimeError:
        return False
    return True
