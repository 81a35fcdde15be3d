"""Images as a network reads them, but for normalisation: 8 bit, in memory or, where they are many, in a mapped file."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import prod
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch
from torch import Tensor

from engine.classifiers import Preprocess
from engine.evaluation.images import ImageSet
from engine.files import explained

IN_MEMORY = 2 * 2**30
"""Bytes of one set up to which it is held in memory."""


@dataclass(frozen=True, eq=False)
class Images:
    """A set of N images.

    pixels: (N, 3, H, W) uint8 of the size that the network reads. classes: (N,) int64, -1 where an image is of none.
    logits: (N, K) that were stored with the images, or None.
    """

    pixels: Tensor
    classes: Tensor
    logits: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def views(self, places: Tensor, device: torch.device) -> Tensor:
        """(n, 3, H, W) in [0, 1], of the images at these places."""
        return self.pixels[places].to(device).float() / 255

    @property
    def fingerprint(self) -> str:
        """What tells a set from another."""
        return fingerprint_of(self)


def fingerprint_of(images: Images) -> str:
    """What tells a set from another: its pixels, classes and stored logits."""
    digest = blake2b(images.classes.numpy().tobytes(), digest_size=8)
    for part in images.pixels.split(1024):
        digest.update(part.numpy().tobytes())
    if images.logits is not None:
        digest.update(images.logits.numpy().tobytes())
    return digest.hexdigest()


def read_pixels(images: ImageSet, places: Sequence[int], preprocess: Preprocess) -> Tensor:
    """The images at these ascending places of a set: (N, 3, H, W) uint8, resized and cropped as the network does."""
    held = empty_pixels((len(places), 3, *preprocess.crop))
    for row, image in zip(held, images.chosen(frozenset(places)), strict=True):
        row.copy_(to_bytes(preprocess.cut(image[None].float() / 255))[0])
    return held


def to_bytes(images: Tensor) -> Tensor:
    """[0, 1] -> uint8, to the nearest of 256 levels."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def empty_pixels(shape: tuple[int, ...]) -> Tensor:
    """A uint8 tensor to be filled. Beyond IN_MEMORY it maps a temporary file, which has no name and goes with it."""
    nbytes = prod(shape)
    if nbytes <= IN_MEMORY:
        return torch.empty(shape, dtype=torch.uint8)
    with NamedTemporaryFile(prefix="ddis-pixels-") as file:
        with explained(Path(file.name)):
            os.posix_fallocate(file.fileno(), 0, nbytes)
        return torch.from_file(file.name, shared=True, size=nbytes, dtype=torch.uint8).view(shape)
