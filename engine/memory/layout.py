"""Which networks run with channels innermost in memory (channels_last), by a rule.

Tensor cores read convolutions in half precision in this layout, so they gain; torch's GroupNorm brings its input back
into the usual one and loses as much. So on CUDA, of tiny decoder and classifier, those in half precision that hold
convolutions and no GroupNorm take it. Nothing is timed: a layout changes the last bits of a step, so two
equal GPUs that timed it differently would make different images.
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
    """The names of the networks that shall run channels_last on a device; none on the CPU."""
    if device.type != "cuda":
        return ()
    guided = {TINY: prior.tiny, "classifier": classifier.network}
    return tuple(
        name for name, network in guided.items() if network is not None and _gains(network)
    )


def _gains(network: nn.Module) -> bool:
    kernels = [part.weight for part in network.modules() if isinstance(part, nn.Conv2d)]
    grouped = any(isinstance(part, nn.GroupNorm) for part in network.modules())
    return bool(kernels) and not grouped and all(kernel.dtype in HALF for kernel in kernels)


def lay_out(channels_last: Iterable[str], prior: Prior, classifier: Classifier) -> None:
    """Put the weights of the networks that `chosen_layouts` named into channels_last, in place and for good."""
    networks: dict[str, Any] = {TINY: prior.tiny, "classifier": classifier.network}
    for name in channels_last:
        if networks[name] is not None:
            networks[name].to(memory_format=torch.channels_last)
