"""Labelled pictures as tensors, and the random views that training draws from them.

A parquet file has the columns `image` (struct with `bytes`), `label` and, of PACS, `domain`. Labels and domains are
numbered in alphabetical order.
"""

import io
from dataclasses import dataclass, replace
from functools import lru_cache
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
    class_names: tuple[str, ...] = CLASSES
    domain_names: tuple[str, ...] = DOMAINS

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def pairs(self) -> Tensor:
        """The number of each image's pair of domain and class (N,), counted by domains first."""
        return self.domains * len(self.class_names) + self.classes

    def where(self, mask: Tensor) -> "Images":
        return replace(
            self, pixels=self.pixels[mask], classes=self.classes[mask], domains=self.domains[mask]
        )

    def to(self, device: str) -> "Images":
        return replace(
            self,
            pixels=self.pixels.to(device),
            classes=self.classes.to(device),
            domains=self.domains.to(device),
        )

    def __add__(self, other: "Images") -> "Images":
        pairs = zip(
            (self.pixels, self.classes, self.domains),
            (other.pixels, other.classes, other.domains),
            strict=True,
        )
        pixels, classes, domains = (torch.cat(pair) for pair in pairs)
        return replace(self, pixels=pixels, classes=classes, domains=domains)


@lru_cache(maxsize=3)
def load_pacs(path: Path) -> Images:
    """All rows of one PACS parquet file."""
    rows = pq.read_table(path, columns=["image", "label", "domain"]).to_pydict()
    return Images(
        _pixels(rows["image"]),
        torch.tensor([CLASSES.index(label) for label in rows["label"]]),
        torch.tensor([DOMAINS.index(domain) for domain in rows["domain"]]),
    )


def load_photos(path: Path, share: float = 1.0) -> Images:
    """The first `share` of each class's rows of a parquet file without domains, such as CIFAR-10's: all are photos."""
    table = pq.read_table(path, columns=["image", "label"])
    labels = table["label"].to_pylist()
    names = tuple(sorted(set(labels)))
    places: dict[str, list[int]] = {name: [] for name in names}
    for place, label in enumerate(labels):
        places[label].append(place)
    kept = sorted(place for own in places.values() for place in own[: round(share * len(own))])
    rows = table.take(kept).to_pydict()
    classes = torch.tensor([names.index(label) for label in rows["label"]])
    return Images(
        _pixels(rows["image"]), classes, torch.zeros_like(classes), names, domain_names=("photo",)
    )


def _pixels(images: list[dict[str, bytes]]) -> Tensor:
    decoded = [np.asarray(Image.open(io.BytesIO(one["bytes"])).convert("RGB")) for one in images]
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).contiguous()


def random_index(number: int, draws: int, rng: Generator) -> Tensor:
    """`draws` numbers below `number`, on the device of `rng`."""
    return torch.randint(0, number, (draws,), generator=rng, device=rng.device)


def resized(pixels: Tensor, resolution: int) -> Tensor:
    """The whole image, antialiased: (N, 3, H, W) uint8 -> (N, 3, resolution, resolution) in [0, 1]."""
    if pixels.shape[2:] == (resolution, resolution):
        return pixels.float() / 255
    size = (resolution, resolution)
    return interpolate(pixels.float() / 255, size=size, mode="bilinear", antialias=True).clamp(0, 1)


def random_crops(pixels: Tensor, side: int, rng: Generator) -> Tensor:
    """A square of each image, at a place of its own, flipped or not.

    pixels: (N, 3, H, W) uint8; gives (N, 3, side, side) in [0, 1], on the device of `rng`, where pixels must be.
    """
    number, _, height, width = pixels.shape
    place = pixels.device
    tops = torch.randint(0, height - side + 1, (number,), generator=rng, device=place)
    lefts = torch.randint(0, width - side + 1, (number,), generator=rng, device=place)
    window = torch.arange(side, device=place)
    rows, columns = tops[:, None] + window, lefts[:, None] + window
    flip = torch.rand(number, generator=rng, device=place) < 0.5
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    index = torch.arange(number, device=place)[:, None, None]
    found = pixels.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
    return found.permute(0, 3, 1, 2).float() / 255


def random_views(pixels: Tensor, resolution: int, rng: Generator, smallest: float = 0.75) -> Tensor:
    """Random crops (one side for the batch, one place for each image) and flips, resized with antialiasing.

    pixels: (N, 3, H, W) uint8; gives (N, 3, resolution, resolution) in [0, 1].
    """
    height = pixels.shape[2]
    least = round(smallest * height)
    side = int(torch.randint(least, height + 1, (), generator=rng, device=pixels.device))
    crops = random_crops(pixels, side, rng)
    if side == resolution:
        return crops
    size = (resolution, resolution)
    return interpolate(crops, size=size, mode="bilinear", antialias=True).clamp(0, 1)
