"""Models without memory: a twin on the device 'meta' that has every shape, and no value."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from engine.classifiers.base import Classifier
from engine.networks.frozen import cast_dtypes
from engine.priors import Prior
from engine.priors.roles import DECODER, TINY, dtypes

Module = TypeVar("Module", bound=nn.Module)
META = torch.device("meta")


def skeleton(module: Module, dtype: torch.dtype | None = None) -> Module:
    """A copy of a module whose parameters and buffers are on 'meta'; nothing of the module's own is copied.

    dtype: of its floating-point tensors, but for what overflows in it; None keeps each as it is. Tensors that are
    shared stay shared. A module that is a skeleton already is returned as it is.
    """
    chosen = {} if dtype is None else cast_dtypes(module, dtype)
    if all(
        value.is_meta and chosen.get(id(value), value.dtype) == value.dtype
        for value in (*module.parameters(), *module.buffers())
    ):
        return module
    twins: dict[int, Tensor] = {}
    for value in (*module.parameters(), *module.buffers()):
        twin = torch.empty_like(value, device=META, dtype=chosen.get(id(value)))
        twins[id(value)] = (
            nn.Parameter(twin, requires_grad=value.requires_grad)
            if isinstance(value, nn.Parameter)
            else twin
        )
    return copy.deepcopy(module, twins)


def skeleton_prior(prior: Prior, dtype: torch.dtype | None = None) -> Prior:
    """A prior of the same shapes on 'meta'. A tiny decoder that is its decoder stays so.

    dtype: of its networks, but for those that overflow in it; None keeps each as it is.
    """
    chosen = dtypes(prior.pipe, dtype) if dtype is not None else {}
    twins = {
        part.name: skeleton(part.module, chosen.get(part.name, dtype))
        for part in prior.components()
    }
    if prior.tiny is not None and TINY not in twins:
        twins[TINY] = twins[DECODER]
    return prior.replaced(**twins)


def skeleton_classifier(classifier: Classifier) -> Classifier:
    """A classifier of the same shapes on 'meta'."""
    return classifier.with_network(skeleton(classifier.network))
