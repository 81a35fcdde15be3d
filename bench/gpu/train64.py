"""A training step of the embedded prior's networks at 64 px: images a second."""

from functools import partial
from typing import Any

import torch
from torch.nn.functional import mse_loss
from transformers import CLIPTokenizer

from engine.embedded.train.autoencoder import build
from engine.embedded.train.prior_networks import PriorNetworks, build_tokenizer, latent_shape
from gpu.card import Card
from gpu.record import Record

RESOLUTION = 64
CASES = ((96, "float32"), (96, "bfloat16"), (512, "bfloat16"), (2048, "bfloat16"))
"""Images of a step, and the dtype of autocast."""


def measure(record: Record, card: Card) -> None:
    tokenizer = build_tokenizer()
    for batch, dtype in card.pick(CASES, ((2, "bfloat16"),)):
        record.attempt(f"batch {batch}, {dtype}", partial(_row, card, tokenizer, batch, dtype))


def _row(card: Card, tokenizer: CLIPTokenizer, batch: int, dtype: str) -> dict[str, Any]:
    side, channels = latent_shape(build(), RESOLUTION)
    networks = PriorNetworks(tokenizer, side, channels).to(card.device).train()
    optimiser = torch.optim.AdamW(networks.parameters(), lr=3e-4, fused=card.is_cuda)
    prompt = tokenizer(["a cartoon of a dog"], padding="max_length", return_tensors="pt")
    ids = prompt.input_ids.to(card.device)
    place = torch.zeros(batch, dtype=torch.int64, device=card.device)
    z = torch.randn(batch, channels, side, side, device=card.device)
    z = z.to(memory_format=torch.channels_last)
    timesteps = torch.randint(0, 1000, (batch,), device=card.device)

    def step() -> None:
        with torch.autocast(card.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = mse_loss(networks(z, timesteps, ids, place).float(), z)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    seconds = card.seconds(step, 8)
    return {"s": seconds, "images_per_s": round(batch / seconds)}
