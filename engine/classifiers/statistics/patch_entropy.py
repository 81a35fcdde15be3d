"""Patch entropy: how varied the patches of an image look to a vision transformer (PSAQ-ViT, arXiv 2203.02250).

    o      what attention gives each patch, mean over heads             s[i,j] = cos(o_i, o_j)
    p(x)   density of all s by a Gaussian kernel of width h = 0.01, at 10 points from min s to max s
    H      = -integral of p log p (trapezoid)                           loss = -sum of H over the blocks

It asks for images with something in them, as photographs have, and knows nothing of the training images.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from engine.classifiers.statistics.base import Absent, Examined, ImageTerm
from engine.errors import ConfigError

NAME = "patch-entropy"
WIDTH = 0.01
POINTS = 10
PROJECTIONS = ("o_proj", "proj", "out_proj", "to_out", "dense")
"""What libraries call the matrix behind attention; it reads the heads side by side."""
HEADS = ("num_heads", "num_attention_heads", "heads", "n_heads")


class Block(NamedTuple):
    """Where a block's attention can be read: the matrix behind it, and its number of heads."""

    path: str
    heads: int


def patch_entropy(examined: Examined, argument: str = "") -> ImageTerm | Absent:
    """The patch entropy of each image, for a vision transformer whose attention ends in a layer of its own."""
    if argument:
        raise ConfigError(
            f"statistics is '{NAME}:{argument}', expected '{NAME}' alone: it has no argument. Leave {argument!r} out."
        )
    blocks = _blocks(examined)
    if not blocks:
        return Absent(
            "runs no attention over a square of patches that ends in a layer of its own",
            "a vision transformer such as ViT or DeiT",
            "set `statistics` to 'energy', or to a file of `ddis statistics`",
        )

    @contextmanager
    def watching(network: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
        with _reading(network, blocks) as read:

            def loss(_: Tensor) -> Tensor:
                found = [entropy(_patches(read[one.path], one.heads)) for one in blocks]
                return -torch.stack(found).sum(0)

            yield loss

    return ImageTerm(
        source=NAME,
        watching=watching,
        found=f"was loaded with statistics {NAME!r}, which know its patches alone",
    )


def entropy(patches: Tensor) -> Tensor:
    """H of the similarities of patches (N, P, D), of each image, (N,), in nats. Differentiable."""
    unit = normalize(patches.float(), dim=2)
    similar = (unit @ unit.transpose(1, 2)).flatten(1)
    low, high = similar.detach().aminmax(dim=1)
    steps = torch.linspace(0, 1, POINTS, device=similar.device)
    points = low[:, None] + (high - low)[:, None] * steps
    gaps = (points[:, :, None] - similar[:, None]) / WIDTH
    density = (-0.5 * gaps.square()).exp().mean(2) / (WIDTH * math.sqrt(2 * math.pi))
    return -torch.trapezoid(density * density.clamp_min(1e-30).log(), points, dim=1)


@contextmanager
def _reading(network: nn.Module, blocks: list[Block]) -> Iterator[dict[str, Tensor]]:
    """Yield a dict that a pass fills with what the matrices behind attention read."""
    read: dict[str, Tensor] = {}

    def reader(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: read.__setitem__(path, inputs[0])

    hooks = [
        network.get_submodule(path).register_forward_pre_hook(reader(path)) for path, _ in blocks
    ]
    try:
        yield read
    finally:
        for hook in hooks:
            hook.remove()
        read.clear()


def _blocks(examined: Examined) -> list[Block]:
    """The attention layers whose numbers of heads and patches are known, in the order of the network's definition."""
    candidates = [
        Block(f"{path}.{name}" if path else name, heads)
        for path, layer in examined.network.named_modules()
        for heads in (next((getattr(layer, word) for word in HEADS if hasattr(layer, word)), 0),)
        for name, child in layer.named_children()
        if heads and name in PROJECTIONS and isinstance(child, nn.Linear)
    ]
    with _reading(examined.network, candidates) as read, torch.no_grad():
        examined.run()
        return [one for one in candidates if one.path in read and _fits(read[one.path], one.heads)]


def _fits(x: Tensor, heads: int) -> bool:
    return x.dim() == 3 and len(x) == 1 and x.shape[1] > 3 and x.shape[2] % heads == 0


def _patches(x: Tensor, heads: int) -> Tensor:
    """What attention gives each patch, (N, P, D / heads), from x: (N, T, D) of all tokens.

    Patches are a square; what comes before them are class tokens and the like.
    """
    n, tokens, width = x.shape
    others = tokens - math.isqrt(tokens) ** 2
    return x[:, others:].reshape(n, -1, heads, width // heads).mean(2)
