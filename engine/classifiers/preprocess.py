"""From an image in [0, 1] to what a network reads: resize, crop, normalise; differentiable and antialiased."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from math import isfinite
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.errors import ConfigError
from engine.settings.reads import Reads

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Interpolation = Literal["nearest-exact", "bilinear", "bicubic"]
Channels = Literal["rgb", "bgr"]
CHOICES = {"interpolation": get_args(Interpolation), "channels": get_args(Channels)}
LARGEST_SIDE = 2**14
LARGEST_UNIT = 3.0
"""Means and standard deviations of pixels in [0, 1] are below it; larger ones are of pixels up to 255."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Preprocess:
    """A network's own preprocessing of images (N, 3, H, W) in [0, 1].

    Attributes:
        crop: (height, width) cut from the centre, which is what the network reads; a number for a square.
        resize: the length of the shorter side, or (height, width) to squash to, or None.
        mean, std: of pixels in [0, 1], in the order of `channels`; a number for all three. A network that reads pixels
            up to 255 has a mean of 0 and a std of 1/255.
        interpolation: how images are resized.
        channels: the order in which the network reads red, green and blue.
    """

    crop: tuple[int, int]
    resize: int | tuple[int, int] | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: Interpolation = "bilinear"
    channels: Channels = "rgb"

    def __post_init__(self) -> None:
        for name, count in (("crop", 2), ("mean", 3), ("std", 3)):
            object.__setattr__(self, name, _several(getattr(self, name), count))
        resize: Any = self.resize
        if isinstance(resize, list):
            object.__setattr__(self, "resize", tuple(resize))
        if not (_numbers(self.mean, 3) and _numbers(self.std, 3)) or min(self.std) <= 0:
            raise ConfigError(
                f"preprocessing has mean {self.mean} and std {self.std}, expected three numbers each, std above 0: "
                "images have the channels red, green, blue in [0, 1]. Give one number for each channel, or one for all."
            )
        if max(*map(abs, self.mean), *self.std) > LARGEST_UNIT:
            raise ConfigError(
                f"preprocessing has mean {self.mean} and std {self.std}, expected those of pixels in [0, 1]: these are "
                "of pixels up to 255. Divide both by 255, or set `pixel_max` to 255."
            )
        for name in ("crop", "resize"):
            size = getattr(self, name)
            sides = (size,) if isinstance(size, int) else size
            if name == "resize" and size is None:
                continue
            if not isinstance(sides, tuple) or not _whole(sides, (1, 2)):
                raise ConfigError(
                    f"preprocessing has {name} {size!r}, expected at least 1 x 1 pixel and at most 16384, as a whole "
                    "number or (height, width): give the input size of the network."
                )
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"preprocessing has {name} {getattr(self, name)!r}, expected one of {', '.join(known)}: choose one."
                )

    def __repr__(self) -> str:
        """All fields but channels in the usual order.

        Fingerprints of classifiers are made of it, and are older than that field.
        """
        shown = (f"{name}={value!r}" for name, value in self.to_plain().items())
        return f"Preprocess({', '.join(shown)})"

    def to_plain(self) -> dict[str, Any]:
        """The fields as `from_dict` reads them, but for channels in the usual order."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        if self.channels == "rgb":
            del values["channels"]
        return values

    @classmethod
    def squash(
        cls, px: int, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD
    ) -> "Preprocess":
        """Resize the whole image to a square of `px`."""
        return cls(crop=(px, px), resize=(px, px), mean=mean, std=std)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "Preprocess":
        """The inverse of `to_plain`, after a trip through JSON, which has no tuples."""
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in settings.items()
        }
        return cls(**values)

    def reading(self, reads: Reads) -> "Preprocess":
        """The same preprocessing with what the caller knows better."""
        changes: dict[str, Any] = {name: reads.scaled(name) for name in ("mean", "std")} | {
            "channels": reads.channels
        }
        if reads.input_px is not None:
            changes |= {"crop": (reads.input_px,) * 2, "resize": (reads.input_px,) * 2}
        changes = {name: value for name, value in changes.items() if value is not None}
        return replace(self, **changes) if changes else self

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
        """images (N, 3, H, W) in [0, 1] -> in units of `std` from `mean`, in the network's order of channels."""
        if self.channels == "bgr":
            images = images.flip(1)
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


def _several(value: Any, count: int) -> Any:
    """A number as so many equal ones; a list, an array or a tensor as a tuple; anything else as it is."""
    value = _plain(value)
    if isinstance(value, int | float):
        return (value,) * count
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def _plain(value: Any) -> Any:
    """An array, a tensor or a number of NumPy's in Python's own numbers; anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def _numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, tuple)
        and len(values) == count
        and all(isinstance(value, int | float) and isfinite(value) for value in values)
    )


def _whole(sides: tuple[Any, ...], counts: tuple[int, ...]) -> bool:
    return len(sides) in counts and all(
        isinstance(side, int) and 0 < side <= LARGEST_SIDE for side in sides
    )


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
