"""PACS at 64 px as tensors, and the random views that training draws from them.

A parquet file has the columns `image` (struct with `bytes`), `label` and `domain`. Labels and domains are numbered in
alphabetical order.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn.functional import interpolate

CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
DOMAINS = ("art_painting", "cartoon", "photo", "sketch")


@dataclass(frozen=True)
class Images:
    """A labelled set: pixels (N, 3, H, W) uint8, classes (N,) and domains (N,) int64."""

    pixels: Tensor
    classes: Tensor
    domains: Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    def where(self, mask: Tensor) -> "Images":
        return Images(self.pixels[mask], self.classes[mask], self.domains[mask])

    def __add__(self, other: "Images") -> "Images":
        pairs = zip(
            (self.pixels, self.classes, self.domains),
            (other.pixels, other.classes, other.domains),
            strict=True,
        )
        return Images(*(torch.cat(pair) for pair in pairs))


def load_pacs(path: Path) -> Images:
    """All rows of one PACS parquet file."""
    rows = pq.read_table(path, columns=["image", "label", "domain"]).to_pydict()
    pixels = [
        np.asarray(Image.open(io.BytesIO(image["bytes"])).convert("RGB")) for image in rows["image"]
    ]
    return Images(
        torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(),
        torch.tensor([CLASSES.index(label) for label in rows["label"]]),
        torch.tensor([DOMAINS.index(domain) for domain in rows["domain"]]),
    )


def resized(pixels: Tensor, resolution: int) -> Tensor:
    """The whole image, antialiased: (N, 3, H, W) uint8 -> (N, 3, resolution, resolution) in [0, 1]."""
    size = (resolution, resolution)
    return interpolate(pixels.float() / 255, size=size, mode="bilinear", antialias=True).clamp(0, 1)


def random_views(pixels: Tensor, resolution: int, rng: Generator, smallest: float = 0.75) -> Tensor:
    """Random crops (one side for the batch, one place for each image) and flips, resized with antialiasing.

    pixels: (N, 3, H, W) uint8; gives (N, 3, resolution, resolution) in [0, 1].
    """
    number, _, height, _ = pixels.shape
    side = int(torch.randint(round(smallest * height), height + 1, (), generator=rng))
    tops, lefts = torch.randint(0, height - side + 1, (2, number), generator=rng)
    window = torch.arange(side)
    rows, columns = tops[:, None] + window, lefts[:, None] + window
    flip = torch.rand(number, generator=rng) < 0.5
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    index = torch.arange(number)[:, None, None]
    crops = pixels.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )
    return resized(crops, resolution)


def jittered(images: Tensor, rng: Generator, strength: float = 0.3) -> Tensor:
    """Random brightness, contrast and saturation, one of each per image: (N, 3, H, W) in [0, 1] -> the same."""
    brightness, contrast, saturation = 1 + strength * (
        2 * torch.rand(3, len(images), 1, 1, 1, generator=rng) - 1
    )
    grey = images.mean(1, keepdim=True)
    images = grey + saturation * (images - grey)
    centre = images.mean((1, 2, 3), keepdim=True)
    return (centre * brightness + contrast * (images - centre)).clamp(0, 1)
