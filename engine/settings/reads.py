"""How a classifier's input is preprocessed, if its file does not say so: how pixels were normalised in training."""

from dataclasses import dataclass
from math import isfinite
from typing import Literal

from engine.errors import ConfigError
from engine.settings.fields import setting

CHANNELS = ("rgb", "bgr")


@dataclass(frozen=True, kw_only=True)
class Reads:
    """Overrides for a classifier's preprocessing. None keeps what its source says.

    mean and std may also be a number for all channels, a list, an array or a tensor.
    """

    mean: tuple[float, ...] | None = setting(
        None,
        "mean that pixels were normalised with in training: one number each for red, green and blue, or one for all",
        "NUMBER",
        flag="mean",
    )
    std: tuple[float, ...] | None = setting(
        None,
        "standard deviation that pixels were normalised with, given like the mean",
        "NUMBER",
        flag="std",
    )
    channels: Literal["rgb", "bgr"] | None = setting(
        None,
        "channel order that the classifier expects: rgb or bgr",
        "ORDER",
        flag="channels",
    )
    pixel_max: float | None = setting(
        None,
        "largest pixel value that the classifier expects before mean and std are applied: 1 or 255; mean and std are "
        "then in the same units",
        "NUMBER",
        flag="pixel-max",
    )
    input_px: int | None = setting(
        None, "side of the classifier's input; images are squashed to it", "PX", flag="input-px"
    )

    def __post_init__(self) -> None:
        if self.channels not in (None, *CHANNELS):
            raise ConfigError(
                f"channels is {self.channels!r}, expected one of {', '.join(map(repr, CHANNELS))}: choose one of these."
            )
        for name in ("mean", "std"):
            values = getattr(self, name)
            values = values.tolist() if hasattr(values, "tolist") else values
            if values is not None:
                values = tuple(values) if isinstance(values, list | tuple) else (values,)
            object.__setattr__(self, name, values)
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
        """The mean or std, for pixels in [0, 1], one number per channel."""
        values: tuple[float, ...] | None = getattr(self, name)
        if values is None:
            return None
        by = self.pixel_max or 1.0
        return tuple(value / by for value in (values * 3 if len(values) == 1 else values))
