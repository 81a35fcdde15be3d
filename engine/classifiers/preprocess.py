"""From an image in [0, 1] to what a network reads: resize, crop, normalise; differentiable and antialiased."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Interpolation = Literal["nearest-exact", "bilinear", "bicubic"]
PIL_FILTERS: dict[int, Interpolation] = {
    0: "nearest-exact",
    1: "bicubic",
    2: "bilinear",
    3: "bicubic",
}
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
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ConfigError(
                f"preprocessing has mean {self.mean} and std {self.std}, expected three numbers each, std "
                "above 0: images have the channels red, green, blue in [0, 1]."
            )
        if min(self.crop) < 1:
            raise ConfigError(
                f"preprocessing crops to {self.crop}, expected at least 1 x 1 pixel: give the input size."
            )

    @classmethod
    def squash(
        cls, px: int, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD
    ) -> "Preprocess":
        """Resize the whole image to a square of `px`."""
        return cls(crop=(px, px), resize=(px, px), mean=mean, std=std)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "Preprocess":
        """The inverse of `dataclasses.asdict`, after a trip through JSON, which has no tuples."""
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in settings.items()
        }
        return cls(**values)

    @property
    def least_px(self) -> int | None:
        """The side of the smallest square image of which nothing is lost.

        None where a network reads pixels as they come: in another size of image it would see another part.
        """
        return max(self.resize) if isinstance(self.resize, tuple) else self.resize

    def __call__(self, images: Tensor) -> Tensor:
        """images (N, 3, H, W) in [0, 1], any size -> (N, 3, *crop), normalised."""
        return self.normalised(self.cut(images))

    def cut(self, images: Tensor) -> Tensor:
        """images (N, 3, H, W), any size -> (N, 3, *crop): what the network reads, before it is normalised."""
        return _centre(self._resized(images), self.crop)

    def normalised(self, images: Tensor) -> Tensor:
        """images (N, 3, H, W) in [0, 1] -> in units of `std` from `mean`."""
        mean, std = (_channels(values, images) for values in (self.mean, self.std))
        return (images - mean) / std

    def _resized(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        target = self.resize
        if isinstance(target, int):
            short = min(height, width)
            target = (target * height // short, target * width // short)
        if target is None or target == (height, width):
            return images
        if self.interpolation == "nearest-exact":
            return F.interpolate(images, target, mode="nearest-exact")
        if images.is_cuda:
            return resized_by_products(images, target, self.interpolation)
        return F.interpolate(images, target, mode=self.interpolation, antialias=True)


def resized_by_products(images: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Antialiased resizing as a matrix product along each axis: (N, C, H, W) -> (N, C, *size).

    On CUDA, the backward pass of `torch.nn.functional.interpolate` adds in whatever order its threads come, so that the
    same guided run gives other bytes each time. Matrix products do not.
    """
    rows, columns = (
        _resizing(have, want, mode, images.dtype, images.device)
        for have, want in zip(images.shape[-2:], size, strict=True)
    )
    return rows @ images @ columns.T


@cache
def _resizing(have: int, want: int, mode: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(want, have): what each new pixel of a line takes of the old ones."""
    with torch.inference_mode(False), torch.no_grad():
        lines = torch.eye(have)[None, None]
        weights = F.interpolate(lines, (want, have), mode=mode, antialias=True)[0, 0]
        return weights.to(device, dtype)


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    """`values` as a (1, 3, 1, 1) tensor with the dtype and on the device of `like`.

    It is made once: a copy from the host would stall every guided step, and cannot be part of a CUDA graph. What fakes
    or traces tensors gets a tensor of its own.
    """
    if (
        type(like) is not Tensor
        or torch._C._len_torch_dispatch_stack()
        or torch.compiler.is_compiling()
    ):
        return like.new_tensor(values).view(1, 3, 1, 1)
    return _made_once(values, like.dtype, like.device)


@cache
def _made_once(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # autograd could not save an inference tensor
        return torch.tensor(values, dtype=dtype, device=device).view(1, 3, 1, 1)


def _centre(images: Tensor, crop: tuple[int, int]) -> Tensor:
    """The middle of the image; zeros around it where it is smaller than the crop."""
    lack = [max(0, want - have) for want, have in zip(crop, images.shape[-2:], strict=True)]
    if any(lack):
        images = F.pad(
            images, (lack[1] // 2, lack[1] - lack[1] // 2, lack[0] // 2, lack[0] - lack[0] // 2)
        )
    top, left = ((have - want) // 2 for want, have in zip(crop, images.shape[-2:], strict=True))
    return images[..., top : top + crop[0], left : left + crop[1]]


def from_image_processor(config: Mapping[str, Any]) -> Preprocess:
    """The preprocessing that a transformers `preprocessor_config.json` describes, its class's habits included."""
    kind = str(config.get("image_processor_type", config.get("feature_extractor_type", "")))
    cropped = bool(config.get("do_center_crop"))
    size = _sides(config.get("size", 224))
    crop_pct = config.get("crop_pct", 224 / 256 if kind.startswith("ConvNext") else None)
    resize: int | tuple[int, int] | None = size
    if isinstance(size, int):
        if crop_pct:
            resize = int(size / crop_pct) if size < 384 else (size, size)
        elif kind.startswith("Levit"):
            resize = int(size * 256 / 224)
        elif not cropped:
            resize = (size, size)
    normalised = config.get("do_normalize", True)
    std = tuple(config.get("image_std") or IMAGENET_STD) if normalised else (1.0, 1.0, 1.0)
    if kind.startswith("EfficientNet") and config.get("include_top", True):
        std = tuple(value * value for value in std)  # it divides by std twice
    return Preprocess(
        crop=_pair(_sides(config.get("crop_size", size)) if cropped else size),
        resize=resize if config.get("do_resize", True) else None,
        mean=tuple(config.get("image_mean") or IMAGENET_MEAN) if normalised else (0.0, 0.0, 0.0),
        std=std,
        interpolation=PIL_FILTERS.get(config.get("resample", 2), "bilinear"),
    )


def _sides(size: Any) -> int | tuple[int, int]:
    """A transformers size: a number, {"shortest_edge": n} or {"height": h, "width": w}."""
    if isinstance(size, Mapping):
        return size["shortest_edge"] if "shortest_edge" in size else (size["height"], size["width"])
    return size


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
