"""Settings of the inversions: methods that make images from the classifier alone, without a prior.

The papers tune their methods twice, for 32 px images (CIFAR) and for 224 px (ImageNet), without a rule that connects
the two. So a setting may have two defaults; `for_px` chooses one by the size of the images.
"""

from dataclasses import dataclass, field, fields, replace
from math import isfinite
from typing import Any, ClassVar, Self

from engine.errors import ConfigError
from engine.settings.fields import check_at_most, check_whole, setting
from engine.settings.methods import MethodSettings
from engine.settings.sampling import MOST_TOGETHER, TOGETHER

LARGE_PX = 96
"""Images of this side and larger take the settings for ImageNet."""
ITERATIONS = ("iterations", "half_size_iterations")
"""The fields that count a method's iterations."""


def sized(small: Any, large: Any, help: str) -> Any:
    """A config field with a default for small images, another for images from LARGE_PX, and its help."""
    return field(
        default=small,
        metadata={"help": f"{help}; {large} from {LARGE_PX} px images", "large": large},
    )


@dataclass(frozen=True, kw_only=True)
class InversionSettings(MethodSettings):
    """Settings of a method that needs no prior. Unless stated otherwise, defaults are for images below 96 px."""

    uses = frozenset()
    positive: ClassVar[tuple[str, ...]] = ("batch",)
    not_negative: ClassVar[tuple[str, ...]] = ()

    batch: int = setting(
        56,
        "images that are optimised together, with classes mixed; they share what belongs to a batch",
    )

    def __post_init__(self) -> None:
        for name in self.positive + self.not_negative:
            value, least = getattr(self, name), "> 0" if name in self.positive else ">= 0"
            if not isfinite(value) or value < 0 or (value == 0 and name in self.positive):
                raise ConfigError(
                    f"{name} is {value}, expected a finite number {least}: correct it; the default is "
                    f"{type(self).__dataclass_fields__[name].default}."
                )
        check_whole(self)
        check_at_most(self, batch=(MOST_TOGETHER, TOGETHER))

    @classmethod
    def for_px(cls, px: int) -> Self:
        """The defaults for images of side `px`."""
        large = {
            entry.name: entry.metadata["large"]
            for entry in fields(cls)
            if "large" in entry.metadata
        }
        return cls(**large) if px >= LARGE_PX else cls()


@dataclass(frozen=True, kw_only=True)
class DeepInversion(InversionSettings):
    """DeepInversion: optimise pixels by cross-entropy and L_BN."""

    name = "deepinversion"
    prepared_by = "engine.methods.deepinversion:METHOD"
    uses = frozenset({"student"})
    positive: ClassVar[tuple[str, ...]] = ("batch", "iterations", "learning_rate")
    not_negative: ClassVar[tuple[str, ...]] = (
        "half_size_iterations",
        "class_weight",
        "bn_weight",
        "tv_weight",
        "l2_weight",
        "competition",
        "jitter",
    )

    iterations: int = sized(
        400, 1000, "iterations at the full size (paper: 2,000 on CIFAR-10, to 20,000)"
    )
    half_size_iterations: int = sized(
        0, 2000, "iterations at half the size, before those at full size (paper: 2,000 at 112 px)"
    )
    learning_rate: float = sized(
        0.1, 0.25, "Adam's learning rate, falling to 0 (paper: 0.05-0.1 and 0.25)"
    )
    class_weight: float = setting(1.0, "weight of cross-entropy (paper: 1)")
    balance: bool = sized(
        False,
        True,
        "scale L_BN by its value at the start, in units of the cross-entropy at chance level; otherwise it drowns out "
        "the class in deep networks for large images",
    )
    bn_weight: float = sized(
        0.1,
        0.3,
        "weight of L_BN, with the first layer x10; without balance, a good value depends on the classifier's "
        "statistics (paper: 10 and 0.01-0.05)",
    )
    tv_weight: float = setting(1e-4, "weight of total variation (paper: 1e-4)")
    l2_weight: float = setting(1e-5, "weight of the image's norm (paper: 1e-5)")
    competition: float = setting(
        0.0,
        "ADI: weight of 1 - JS(teacher, student); needs a student (paper: 10 and 0.2; 0: not adaptive)",
    )
    jitter: int = sized(4, 30, "largest random shift of an image, in pixels (paper: 30 of 224)")
    flip: bool = setting(True, "mirror images in half of the iterations (as in the paper)")

    @classmethod
    def paper(cls, px: int = 224) -> "DeepInversion":
        """The weights as published, for images of side `px`: L_BN is not scaled, whatever its value."""
        return replace(cls.for_px(px), balance=False, bn_weight=0.05 if px >= LARGE_PX else 10.0)


@dataclass(frozen=True, kw_only=True)
class PlugInInversion(InversionSettings):
    """Plug-In Inversion: optimise pixels by cross-entropy on augmented copies, from the centre out."""

    name = "plugin-inversion"
    prepared_by = "engine.methods.plugin_inversion:METHOD"
    positive: ClassVar[tuple[str, ...]] = (
        "batch",
        "stages",
        "iterations",
        "learning_rate",
        "copies",
    )
    not_negative: ClassVar[tuple[str, ...]] = ("zoom", "jitter", "color_shift", "color_spread")

    stages: int = sized(4, 7, "stages in which the image grows to its full size (paper: 7-8)")
    iterations: int = sized(25, 400, "iterations of each stage (paper: 400)")
    learning_rate: float = sized(
        0.05, 0.01, "Adam's learning rate, falling to 0 in each stage (paper: 0.01)"
    )
    copies: int = sized(
        4, 32, "copies of an image, each with its own ColorShift, in an iteration (paper: 32)"
    )
    color_shift: float = setting(
        1.0, "largest shift that ColorShift subtracts, in standard deviations (paper: 1)"
    )
    color_spread: float = setting(
        1.0, "largest logarithm of the factor that ColorShift multiplies by (paper: 1)"
    )
    zoom: float = setting(
        0.5,
        "share of each stage's growth that comes from enlarging (zoom); the rest is a frame of noise (centring)",
    )
    jitter: int = sized(4, 30, "largest random shift of an image, in pixels (paper: 30 of 224)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.zoom > 1:
            raise ConfigError(
                f"zoom is {self.zoom}, expected a share from 0 (centring alone) to 1 (zoom alone): "
                "correct it; the default is 0.5."
            )


@dataclass(frozen=True, kw_only=True)
class NaturalInversion(InversionSettings):
    """NaturalInversion: optimise a small generator with a feature pyramid for each batch."""

    name = "natural-inversion"
    prepared_by = "engine.methods.natural_inversion:METHOD"
    positive: ClassVar[tuple[str, ...]] = (
        "batch",
        "iterations",
        "generator_rate",
        "pyramid_rate",
        "scaling_rate",
        "latent",
        "width",
    )
    not_negative: ClassVar[tuple[str, ...]] = (
        "class_weight",
        "bn_weight",
        "tv_weight",
        "l2_weight",
    )

    iterations: int = sized(
        200, 2000, "iterations to train the generator of a batch (paper: 2,000)"
    )
    generator_rate: float = setting(1e-3, "Adam's learning rate of the generator (paper: 1e-3)")
    pyramid_rate: float = setting(5e-4, "Adam's learning rate of the feature pyramid (paper: 5e-4)")
    scaling_rate: float = setting(
        0.05, "Adam's learning rate of the channels' scales (paper: 0.05)"
    )
    class_weight: float = setting(1.0, "weight of cross-entropy (paper: 1)")
    bn_weight: float = sized(
        0.1,
        0.05,
        "weight of L_BN; a good value depends on the classifier's statistics (paper: 10, at 32 px)",
    )
    tv_weight: float = setting(6e-3, "weight of total variation (paper: 6e-3)")
    l2_weight: float = setting(1.5e-5, "weight of the image's norm (paper: 1.5e-5)")
    latent: int = setting(128, "size of the random vector that an image is generated from")
    width: int = setting(32, "channels of the generator and of the pyramid")
