"""What a pipeline calls its denoiser with, seen in one call that is answered by zeros."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, keystr, tree_flatten_with_path, tree_unflatten

from engine.priors import Prior

NAMES = {"[0][0]": "latents", "[0][1]": "timestep", "[1]['encoder_hidden_states']": "context"}
"""Names of inputs by their place in (args, kwargs); any other has its argument's own."""


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a network, its tensors apart from all else.

    Attributes:
        tensors: In the call's order.
        names: Of the tensors.
        batched: Names of those whose first axis is the batch.
    """

    tensors: tuple[Tensor, ...]
    names: tuple[str, ...]
    batched: tuple[str, ...]
    leaves: tuple[Any, ...]
    form: TreeSpec

    def arguments(self, tensors: tuple[Tensor, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The args and kwargs of a call on other tensors."""
        given = iter(tensors)
        leaves = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        args, kwargs = tree_unflatten(leaves, self.form)
        return args, kwargs


def tensors_of(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
    """The tensors of a call, in the order of `Call.tensors`."""
    found, _ = tree_flatten_with_path((args, kwargs))
    return tuple(leaf for _, leaf in found if isinstance(leaf, Tensor))


def probed(prior: Prior, batch: int) -> Call:
    """The call of a prior's denoiser for `batch` images without classifier-free guidance."""
    (args, kwargs), (others, more) = (_seen(prior, images) for images in (batch, batch + 1))
    found, form = tree_flatten_with_path((args, kwargs))
    tensors = [(_name(path), leaf) for path, leaf in found if isinstance(leaf, Tensor)]
    wider = tensors_of(*others, **more)
    return Call(
        tensors=tuple(leaf for _, leaf in tensors),
        names=tuple(name for name, _ in tensors),
        batched=tuple(
            name
            for (name, leaf), other in zip(tensors, wider, strict=True)
            if leaf.dim() and len(leaf) != len(other)
        ),
        leaves=tuple(leaf for _, leaf in found),
        form=form,
    )


def _name(path: Any) -> str:
    place = keystr(path)
    own = "".join(letter if letter.isalnum() else "_" for letter in place[3:]).strip("_")
    return NAMES.get(place, own)


class _Seen:
    """Stands in a denoiser's place, keeps what it is called with and answers zeros."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.call: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["network"], name)

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Tensor]:
        self.call = args, kwargs
        return (torch.zeros_like(tensors_of(*args, **kwargs)[0]),)


@torch.no_grad()
def _seen(prior: Prior, images: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    seen = _Seen(prior.network)
    (name,) = (part.name for part in prior.components() if part.role == "denoiser")
    context = prior.encode([""])[[0] * images]
    z = torch.zeros(prior.latent_shape(images), device=prior.device)
    prior.replaced(**{name: seen}).denoiser(context, 1.0)(z, prior.schedule(2)[0])
    return seen.call
