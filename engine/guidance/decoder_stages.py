"""The decoders of diffusers as sequences of stages: cut where checkpointing pays, and made to stop at a smaller size.

A tiny decoder that leaves out its last k upsamplings gives the image at 1 / 2^k of its size. What followed a left out
upsampling convolved maps that were constant over 2 x 2 pixels, and the mean of 2 x 2 results is wanted. For one
convolution that is again a convolution of the small map, with the kernel, along each side,

    (w_-1, w_0, w_1)  ->  (w_-1 / 2, w_-1 / 2 + w_0 + w_1 / 2, w_1 / 2)

It is exact for the first one, and up to what the activations between them do to a block of 2 x 2 for the others.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any, cast

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from diffusers.models.unets.unet_2d_blocks import UpDecoderBlock2D
from torch import Tensor, nn

from engine.priors.tiny_decoder import FrameBlock, clamped

Stage = Callable[[Tensor], Tensor]


def full_stages(vae: AutoencoderKL) -> tuple[Stage, ...]:
    """The decoder of a full VAE as it computes: from latents, divided by their scale, to images in [-1, 1]."""
    decoder = vae.decoder

    def first(z: Tensor) -> Tensor:
        return decoder.mid_block(
            decoder.conv_in(vae.post_quant_conv(z) if vae.post_quant_conv else z), None
        )

    def last(x: Tensor) -> Tensor:
        return decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(x)))

    blocks = [part for block in decoder.up_blocks for part in _parts(block)]
    return first, *blocks, last


def _parts(block: nn.Module) -> Iterator[Stage]:
    """The residual blocks and upsamplings of an up block; the block itself if it is of another kind."""
    if type(block) is UpDecoderBlock2D:
        yield from (partial(resnet, temb=None) for resnet in cast(nn.ModuleList, block.resnets))
        yield from cast(nn.ModuleList | None, block.upsamplers) or ()
    else:
        yield lambda x: block(x, None)


def tiny_stages(vae: Any, halvings: int = 0) -> tuple[Stage, ...]:
    """The decoder of a tiny autoencoder, without its last `halvings` upsamplings.

    From latents, divided by their scale, to images in [-1, 1]. A stage is a residual block, or an upsampling with the
    convolution behind it.
    """
    layers = _shrunk(list(vae.decoder.layers), halvings) if halvings else list(vae.decoder.layers)
    groups: list[list[nn.Module]] = [[]]
    for layer in layers:
        if isinstance(layer, AutoencoderTinyBlock | FrameBlock | nn.Upsample):
            groups.append([])
        groups[-1].append(layer)
    middle = (nn.Sequential(*group) for group in groups)
    return clamped, *middle, (lambda x: x.mul(2).sub(1))


def sides(vae: Any, side: int) -> list[int]:
    """The sides of image, in pixels, that a tiny decoder can give where its own is `side`, from the largest."""
    return [side >> halvings for halvings in range(len(_upsamplings(vae.decoder.layers)) + 1)]


def _upsamplings(layers: nn.Sequential | list[nn.Module]) -> list[int]:
    """The places of the upsamplings by 2 behind which there is none of another factor."""
    places = [place for place, layer in enumerate(layers) if isinstance(layer, nn.Upsample)]
    doubling = [place for place in places if layers[place].scale_factor == 2.0]
    return doubling if doubling == places else []


def _shrunk(layers: list[nn.Module], halvings: int) -> list[nn.Module]:
    """The layers without the last `halvings` upsamplings; convolutions behind a left out one have kernels to match."""
    left_out = _upsamplings(layers)[-halvings:]
    return [
        coarse(layer, sum(place > out for out in left_out)) if place > left_out[0] else layer
        for place, layer in enumerate(layers)
        if place not in left_out
    ]


def coarse(layer: nn.Module, halvings: int) -> nn.Module:
    """A copy of a layer whose 3 x 3 convolutions do on maps at 1 / 2^halvings of the size what they did before."""
    copy = deepcopy(layer)
    for part in copy.modules():
        if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3):
            kernel = part.weight.detach()
            for _ in range(halvings):
                kernel = _pooled(_pooled(kernel).transpose(2, 3)).transpose(2, 3)
            part.weight = nn.Parameter(kernel, requires_grad=False)
    return copy


def _pooled(kernel: Tensor) -> Tensor:
    """A kernel (..., 3, 3) for maps half as high; see the module's docstring."""
    above, middle, below = kernel.unbind(-2)
    return torch.stack([above / 2, above / 2 + middle + below / 2, below / 2], dim=-2)
