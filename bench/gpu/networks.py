"""L_BN and its gradient on whole networks: by our kernels, by hooks, and a pass without it.

`s` is wall-clock time, `gpu_s` the GPU's own: where `s` is far above it, the host's launches are what takes the time.
"""

from functools import partial
from typing import Any

import torch
from networks import LAYOUTS, contenders
from timing import median_ratios, peak_bytes

from engine.classifiers import load_classifier
from gpu.card import Card
from gpu.record import Record

CASES = (
    (50, 8, "channels_last"),
    (50, 32, "channels_last"),
    (34, 8, "channels_last"),
    (34, 32, "channels_last"),
    (50, 8, "contiguous"),
    (34, 8, "contiguous"),
)
"""Depth of the ResNet, images, layout."""


def measure(record: Record, card: Card) -> None:
    """Put `ResNet-<depth>, batch <n>, <layout>`, by contender."""
    for depth, batch, layout in card.pick(CASES, ((18, 1, "channels_last"),)):
        work = partial(_row, card, depth, batch, layout)
        record.attempt(f"ResNet-{depth}, batch {batch}, {layout}", work)


def _row(card: Card, depth: int, batch: int, layout: str) -> dict[str, dict[str, Any]]:
    found = load_classifier(f"arch:resnet{depth}", device=card.device, dtype=card.dtype)
    network = found.network.to(memory_format=LAYOUTS[layout])
    px = card.pick(found.preprocess.crop, (32, 32))
    images = torch.rand(batch, 3, *px, device=card.device, dtype=card.dtype)
    images = found.preprocess.normalised(images).to(memory_format=LAYOUTS[layout])
    runs = contenders(network, images)
    for run in runs.values():
        run()  # compiles
    row = median_ratios(runs, "plain", card.device.type, rounds=card.pick(9, 1))
    for name, run in runs.items():
        row[name] |= {"peak_bytes": peak_bytes(run, card.device.type)} | card.gpu_seconds(run)
    return row
