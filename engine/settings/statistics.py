"""Settings for writing a statistics file."""

import math
from dataclasses import dataclass

from engine.errors import ConfigError
from engine.settings.fields import check_positive, setting


@dataclass(frozen=True, kw_only=True)
class StatisticsExport:
    """What is measured on a classifier's training images, and how much the file may reveal about each image.

    With `epsilon` the file is (epsilon, delta)-differentially private: see `engine.evaluation.privacy`.
    """

    layers: tuple[str, ...] | None = setting(
        None,
        "names or patterns of the layers whose inputs are measured, such as 'blocks.*.norm1'; append ':output' to "
        "measure a layer's output instead; by default all normalisation layers or, if there are none, the outputs "
        "of convolutions and linear layers",
        "NAME",
    )
    features: bool = setting(
        False,
        "also save the mean of the last features in each class, and their covariance within classes; the images must "
        "then have class names",
    )
    epsilon: float | None = setting(
        None,
        "make the file differentially private: bounds what it reveals about any one image, where 1 or less is strong "
        "and 8 is weak; by default averages are exact",
    )
    delta: float = setting(
        1e-5, "with epsilon: probability of revealing more; must be below 1 / number of images"
    )
    clip: float = setting(
        1.0,
        "with epsilon: largest contribution of an image, as rms over all moments, each in units of `public`",
    )
    public: str | None = setting(
        None,
        "with epsilon: images that anyone may see, such as some from the plain prior, which set the units for "
        "clipping; by default noise images",
        "PATH",
    )
    image_batch: int = setting(64, "images per batch of the classifier")

    def __post_init__(self) -> None:
        check_positive(self, "image_batch")
        if self.layers is not None and not self.layers:
            raise ConfigError(
                "layers is empty, expected at least one name: leave it out to measure what the rule chooses."
            )
        if self.epsilon is None:
            if self.public is not None:
                raise ConfigError(
                    "public came without `epsilon`, expected both: exact averages need no units. Leave it out, or give "
                    "`epsilon`."
                )
            return
        for name in ("epsilon", "clip"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ConfigError(
                    f"{name} is {value:g}, expected a finite number above 0: correct it; 1 is usual."
                )
        if not 0 < self.delta < 1:
            raise ConfigError(
                f"delta is {self.delta:g}, expected a probability between 0 and 1: give one well below 1 / number of "
                "images, such as 1e-5."
            )
        if self.features:
            raise ConfigError(
                "features came with `epsilon`, expected one of them: means of single classes are of few images each, "
                "and noise would drown them. Leave `features` out, or keep the file to yourself and leave out "
                "`epsilon`."
            )
