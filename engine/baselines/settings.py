"""What the settings of all baselines share: a batch, checks, and two defaults where a paper has two.

The papers tune their methods twice, for 32 px images (CIFAR) and for 224 px (ImageNet), and not by a rule that gives
one from the other. So a setting may have two defaults; `for_px` chooses by the size of the images.
"""

from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any, ClassVar, Self

from engine.config import setting
from engine.errors import ConfigError

LARGE_PX = 96
"""Images of this side and larger take the settings for ImageNet."""


def sized(small: Any, large: Any, help: str) -> Any:
    """A config field with a default for small images, another for images from LARGE_PX, and its help."""
    return field(
        default=small, metadata={"help": f"{help}; {large} from {LARGE_PX} px images", "large": large}
    )


@dataclass(frozen=True, kw_only=True)
class BaselineSettings:
    """Settings of a method that needs no prior. Those without another word are for images below 96 px."""

    name: ClassVar[str]
    """What `--method` calls the method."""
    positive: ClassVar[tuple[str, ...]] = ("batch",)
    not_negative: ClassVar[tuple[str, ...]] = ()

    batch: int = setting(
        56, "images that are optimised together, classes mixed; they share what a batch shares"
    )

    def __post_init__(self) -> None:
        for name in self.positive + self.not_negative:
            value, least = getattr(self, name), "> 0" if name in self.positive else ">= 0"
            if not isfinite(value) or value < 0 or (value == 0 and name in self.positive):
                raise ConfigError(
                    f"{self.name}'s {name} is {value}, expected a finite number {least}: the default is "
                    f"{type(self).__dataclass_fields__[name].default}."
                )

    @classmethod
    def for_px(cls, px: int) -> Self:
        """The defaults for images of side `px`."""
        large = {entry.name: entry.metadata["large"] for entry in fields(cls) if "large" in entry.metadata}
        return cls(**large) if px >= LARGE_PX else cls()
