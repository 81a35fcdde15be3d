"""What a classifier reads, where its file does not say so: the numbers that pixels were normalised with in training."""

from dataclasses import dataclass
from math import isfinite
from typing import Literal

from engine.errors import ConfigError
from engine.settings.fields import setting

CHANNELS = ("rgb", "bgr")


@dataclass(frozen=True, kw_only=True)
class Reads:
    """A classifier's preprocessing, as far as the caller knows better. None leaves what its source says."""

    mean: tuple[float, ...] | None = setting(
        None,
        "mean of the pixels that the classifier was trained with: a number for red, green and blue, or one for all",
        "NUMBER",
        flag="mean",
    )
    std: tuple[float, ...] | None = setting(
        None, "their standard deviation, in the same way", "NUMBER", flag="std"
    )
    channels: Literal["rgb", "bgr"] | None = setting(
        None,
        "the order in which the classifier reads the channels: rgb or bgr",
        "ORDER",
        flag="channels",
    )
    pixel_max: float | None = setting(
        None,
        "the largest value of a pixel as the classifier reads it, before mean and std, which are then in its units: 1 "
        "or 255",
        "NUMBER",
        flag="pixel-max",
    )
    input_px: int | None = setting(
        None, "side of the images that the classifier reads, squashed to it", "PX", flag="input-px"
    )

    def __post_init__(self) -> None:
        if self.channels not in (None, *CHANNELS):
            raise ConfigError(
                f"channels is {self.channels!r}, expected one of {', '.join(map(repr, CHANNELS))}: choose one of these."
            )
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and (len(values) not in (1, 3) or not all(map(isfinite, values))):
                raise ConfigError(
                    f"{name} is {' '.join(map(str, values)) or 'empty'}, expected one finite number or three: of red, "
                    "green and blue, in the network's order. Correct it."
                )
        if self.pixel_max is not None and not 0 < self.pixel_max < float("inf"):
            raise ConfigError(
                f"pixel_max is {self.pixel_max}, expected a number above 0: give 1 where pixels were divided by "
                "255, and 255 where they were not."
            )
        if self.pixel_max is not None and (self.mean is None or self.std is None):
            raise ConfigError(
                f"pixel_max is {self.pixel_max:g} without mean and std, expected both in its units: set `mean` to 0 "
                "and `std` to 1 where nothing was subtracted or divided."
            )
        if self.input_px is not None and self.input_px < 1:
            raise ConfigError(
                f"input_px is {self.input_px}, expected at least 1: give the side in pixels."
            )

    @property
    def is_normalising(self) -> bool:
        """Whether mean and std are known."""
        return self.mean is not None and self.std is not None

    def scaled(self, name: str) -> tuple[float, ...] | None:
        """mean or std of pixels in [0, 1], one for each channel."""
        values: tuple[float, ...] | None = getattr(self, name)
        if values is None:
            return None
        by = self.pixel_max or 1.0
        return tuple(value / by for value in (values * 3 if len(values) == 1 else values))
