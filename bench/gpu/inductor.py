"""torch.compile's best kernels for the same work next to ours. Compiling them takes the time, so this part is last."""

from functools import partial
from itertools import product
from typing import Any

import torch
from contenders import layer_contenders, moments_contenders
from networks import LAYOUTS
from timing import best_us

from gpu.card import Card
from gpu.record import Record

OPS = {
    "channel_moments": moments_contenders,
    "bn_relu_moments": partial(layer_contenders, activation="relu"),
}


def measure(record: Record, card: Card) -> None:
    cases = [*product(("bn_relu_moments", "channel_moments"), ("channels_last", "contiguous"))]
    for op, layout in card.pick(cases, cases[-1:]):
        record.attempt(f"{op}, {layout}", partial(_row, card, op, layout))


def _row(card: Card, op: str, layout: str) -> dict[str, Any]:
    shape = card.pick((16, 64, 56, 56), (1, 4, 8, 8))
    x = torch.randn(shape, device=card.device).to(card.dtype).to(memory_format=LAYOUTS[layout])
    return best_us(OPS[op](x, with_inductor=True), card.device.type, card.pick(1.0, 0.01))
