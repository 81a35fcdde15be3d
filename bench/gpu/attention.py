"""xformers and torch's own attention: one layer, and a whole step of the UNet."""

from functools import partial
from typing import Any

import torch
from diffusers.models.attention_processor import Attention

from engine.memory.attention import PROCESSORS, attending, chosen_attention
from engine.priors import Prior
from gpu.card import Card
from gpu.record import Record

LAYERS = ((2, 4096, 320), (16, 4096, 320), (16, 1024, 640))
"""Rows, tokens and width of layers of Stable Diffusion at 512 px."""
HEAD = 64


def measure(record: Record, card: Card) -> None:
    names = card.pick(("sdpa", "xformers"), ("sdpa", "vanilla"))
    for rows, tokens, width in card.pick(LAYERS, ((1, 16, 64),)):
        for name in names:
            work = partial(_layer, card, name, rows, tokens, width)
            record.attempt(f"layer {rows} x {tokens} x {width}, {name}", work)
    record.attempt("auto chooses", lambda: chosen_attention("auto", card.device, card.dtype))
    prior = card.prior()
    for batch in card.pick((1, 8), (1,)):
        for name in names:
            record.attempt(
                f"UNet step, batch {batch}, {name}", partial(_unet, card, prior, name, batch)
            )


def _layer(card: Card, name: str, rows: int, tokens: int, width: int) -> dict[str, Any]:
    layer = Attention(width, heads=width // HEAD, dim_head=HEAD, processor=PROCESSORS[name]())
    layer = layer.to(card.device, card.dtype).eval()
    x = torch.randn(rows, tokens, width, device=card.device, dtype=card.dtype)
    with torch.no_grad():
        return {"s": card.seconds(lambda: layer(x), 15)} | card.gpu_seconds(lambda: layer(x))


def _unet(card: Card, prior: Prior, name: str, batch: int) -> dict[str, Any]:
    step = prior.schedule(30)[10]
    z = torch.randn(batch, *prior.latent_shape(1)[1:], device=card.device)
    with torch.no_grad(), attending([prior.network], name, card.device):
        denoise = prior.denoiser(prior.encode(["a photo"] * batch, ""), 4.0)
        seconds = card.seconds(lambda: denoise(z, step))
        with card.peak(prior.network) as found:
            denoise(z, step)
    return {"s": seconds, "reserved_bytes": found.peak_bytes}
