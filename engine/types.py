"""The values that travel between the rooms."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

import torch
from ddis_kernels import Moments
from torch import Tensor

from engine.image_key import ImageKey

__all__ = [
    "ImageKey",
    "Moments",
    "Prediction",
    "Sample",
    "group_rng",
    "image_rng",
]


class Prediction(NamedTuple):
    """What a denoiser says of z_t: the clean latent and the noise in it, each (N, ...).

    Both are kept because each is computed from the model's own output; deriving one from the other would lose digits
    at the ends of the schedule.
    """

    clean: Tensor
    noise: Tensor


@dataclass(frozen=True)
class Sample:
    """One finished image, and what the classifier makes of it.

    Attributes:
        key: number of the class, and of the image within it.
        label: name of the class.
        seed: seed of the run.
        prompt: the text that it was drawn from; "" without a prior.
        token: the class token in that prompt; "" if there is none.
        image: (3, H, W) in [0, 1], on the CPU.
        logits: (K,), of the classifier.
        l_bn: distance from this image's moments to the classifier's stored statistics: the paper's unweighted sum of
            2-norms, over this image alone. NaN if the classifier has no statistics.
        confidence: probability that the classifier assigns to the image's own class.
        group: identifies the images whose pixels depend on each other; "" if they depend on this image alone.
        curve: value of the objective before each move of guidance; empty for unguided images.
        skipped: moves that were skipped because the gradient was not finite.
    """

    key: ImageKey
    label: str
    seed: int
    prompt: str
    token: str
    image: Tensor
    logits: Tensor
    l_bn: float
    confidence: float
    group: str
    curve: tuple[float, ...] = ()
    skipped: int = 0


def image_rng(seed: int, key: ImageKey) -> torch.Generator:
    """The CPU generator of one image. Equal for every batch size, device and order of work."""
    return _rng(f"{seed}/{key.class_index}/{key.index}")


def group_rng(seed: int, keys: Sequence[ImageKey]) -> torch.Generator:
    """The CPU generator of images that are made together: another group, another generator."""
    return _rng("/".join([str(seed), *(f"{key.class_index}.{key.index}" for key in keys)]))


def _rng(name: str) -> torch.Generator:
    digest = blake2b(name.encode(), digest_size=8).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "little") & (2**63 - 1))
