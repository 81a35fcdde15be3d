"""From an image in [0, 1] to what a network reads: resize, crop, normalise; differentiable and antialiased."""

from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from engine.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PIL_FILTERS = {0: "nearest-exact", 1: "bicubic", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers for its filters. Lanczos (1) has no differentiable form here; bicubic is nearest to it."""


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """A network's own preprocessing of images (N, 3, H, W) in [0, 1].

    resize: the length of the shorter side, or (height, width) to squash to, or None. crop: (height, width) cut from
    the centre, which is what the network reads.
    """

    crop: tuple[int, int]
    resize: int | tuple[int, int] | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: Literal["nearest-exact", "bilinear", "bicubic"] = "bilinear"

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ConfigError(
                f"preprocessing has mean {self.mean} and std {self.std}, expected three numbers each, std above 0: "
                "images have the channels red, green, blue in [0, 1]."
            )
        if min(self.crop) < 1:
            raise ConfigError(f"preprocessing crops to {self.crop}, expected at least 1 x 1 pixel: give the input size.")

    @classmethod
    def squash(cls, px: int, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD) -> "Preprocess":
        """Resize the whole image to a square of `px`."""
        return cls(crop=(px, px), resize=(px, px), mean=mean, std=std)

    def __call__(self, images: Tensor) -> Tensor:
        """images (N, 3, H, W) in [0, 1], any size -> (N, 3, *crop), normalised."""
        images = _centre(self._resized(images), self.crop)
        mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return (images - mean) / std

    def _resized(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        target = self.resize or (max(height, self.crop[0]), max(width, self.crop[1]))
        if isinstance(target, int):
            short = min(height, width)
            target = (target * height // short, target * width // short)
        if target == (height, width):
            return images
        if self.interpolation == "nearest-exact":
            return F.interpolate(images, target, mode="nearest-exact")
        return F.interpolate(images, target, mode=self.interpolation, antialias=True)


def _centre(images: Tensor, crop: tuple[int, int]) -> Tensor:
    """The middle of the image; zeros around it where it is smaller than the crop."""
    lack = [max(0, want - have) for want, have in zip(crop, images.shape[-2:], strict=True)]
    if any(lack):
        images = F.pad(images, (lack[1] // 2, lack[1] - lack[1] // 2, lack[0] // 2, lack[0] - lack[0] // 2))
    top, left = ((have - want) // 2 for want, have in zip(crop, images.shape[-2:], strict=True))
    return images[..., top : top + crop[0], left : left + crop[1]]


def from_image_processor(config: dict[str, Any]) -> Preprocess:
    """The preprocessing that a transformers `preprocessor_config.json` describes."""
    size = _sides(config.get("size", 224))
    filter_name = PIL_FILTERS.get(config.get("resample", 2), "bilinear")
    if config.get("crop_pct") and isinstance(size, int):
        resize = int(size / config["crop_pct"]) if size < 384 else (size, size)
        crop = (size, size)
    else:
        resize = size if config.get("do_resize", True) else None
        crop_size = config.get("crop_size") if config.get("do_center_crop") else None
        square = (size, size) if isinstance(size, int) else size
        crop = _pair(_sides(crop_size)) if crop_size else square
    normalised = config.get("do_normalize", True)
    return Preprocess(
        crop=crop,
        resize=resize,
        mean=tuple(config.get("image_mean") or IMAGENET_MEAN) if normalised else (0.0,) * 3,
        std=tuple(config.get("image_std") or IMAGENET_STD) if normalised else (1.0,) * 3,
        interpolation=filter_name,
    )


def _sides(size: Any) -> int | tuple[int, int]:
    """A transformers size: a number, {"shortest_edge": n} or {"height": h, "width": w}."""
    if isinstance(size, dict):
        return size["shortest_edge"] if "shortest_edge" in size else (size["height"], size["width"])
    return size


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
