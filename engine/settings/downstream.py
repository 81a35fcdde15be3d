"""Settings of distilling, pruning and quantising; `Comparison` is what the three have in common."""

from dataclasses import dataclass
from typing import Literal

from engine.errors import ConfigError
from engine.settings.fields import (
    check_at_most,
    check_choices,
    check_not_negative,
    check_positive,
    setting,
)

MOST_STREAMED = 10**6
"""Images of one class that are made while a student learns."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How the rows are compared."""

    seeds: int = setting(
        3, "runs of each row, from seeds 0, 1, ...: what a mean and a spread are taken over"
    )
    held_out: float = setting(
        0.2,
        "share of each class of the folder that no network is trained on where there are no test images: agreement "
        "with the teacher is measured on it",
    )
    noise: bool = setting(
        True,
        "a row of noise too; where folders of one size are compared one by one, once is enough",
    )
    equal_sizes: bool = setting(
        True,
        "cut each class to the smallest row's count; if not, each row has all of its own images",
    )

    def __post_init__(self) -> None:
        check_positive(self, "seeds")
        if not 0 < self.held_out < 1:
            raise ConfigError(
                f"held_out is {self.held_out}, expected a fraction between 0 and 1: write 20 % as 0.2."
            )


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """How a student is taught by the teacher's soft labels alone (Hinton et al. 2015): no label of a class is used."""

    epochs: int = setting(30, "times that each image is shown")
    updates: int = setting(
        0,
        "updates of a student, in place of epochs, so that rows of any size learn equally long; 0: epochs decide",
    )
    batch: int = setting(32, "images of an update")
    learning_rate: float = setting(
        3e-3,
        "AdamW's largest learning rate; it warms up over a tenth of the updates, then falls as a cosine",
    )
    weight_decay: float = setting(0.01, "AdamW's weight decay")
    temperature: float = setting(
        4.0,
        "what logits are divided by before the softmax: the higher, the more of the wrong classes is learned",
    )
    soft_labels: Literal["online", "manifest"] = setting(
        "online",
        "online: the teacher looks at each view that the student sees; manifest: the logits that generate kept",
    )
    augment: bool = setting(True, "show each image flipped, shifted and zoomed at random")
    mix: Literal["none", "mixup", "cutmix", "both"] = setting(
        "none",
        "show two images in one: blended (mixup), one with a box of the other (cutmix), or batches of each (both); the "
        "teacher looks at what the student sees",
    )

    def __post_init__(self) -> None:
        check_choices(self)
        check_positive(self, "epochs")
        check_not_negative(self, updates="0 lets epochs decide")
        if self.mix != "none" and self.soft_labels != "online":
            raise ConfigError(
                f"mix is {self.mix!r} and soft_labels is {self.soft_labels!r}, expected 'online': stored logits are of "
                "single images, and only the teacher knows what it makes of two in one. Set soft_labels to 'online', "
                "or mix to 'none'."
            )
        if self.batch < 2:
            raise ConfigError(
                f"batch is {self.batch}, expected at least 2: BatchNorm needs several images. Raise it."
            )
        if not 0 < self.learning_rate < float("inf"):
            raise ConfigError(
                f"learning_rate is {self.learning_rate}, expected a finite number > 0: try 0.003."
            )
        check_not_negative(self, weight_decay="0 leaves weights as they are")
        if not 0 < self.temperature < float("inf"):
            raise ConfigError(
                f"temperature is {self.temperature}, expected a finite number > 0: give 1 to leave the logits as "
                "they are."
            )

    @classmethod
    def short(cls) -> "Distillation":
        """Thirty passes: enough to rank sets of a few hundred images."""
        return cls()

    @classmethod
    def long(cls) -> "Distillation":
        """Two hundred passes: patient distillation (Beyer et al. 2022), for students that will be used."""
        return cls(epochs=200)

    @classmethod
    def fitting(cls) -> "Distillation":
        """For a new network on the class of each image, without a teacher."""
        return cls(epochs=60, temperature=1.0, soft_labels="manifest")

    @classmethod
    def fine_tuning(cls) -> "Distillation":
        """For weights that begin near their goal, as those of a pruned network do."""
        return cls(learning_rate=1e-3)


@dataclass(frozen=True, kw_only=True)
class Streaming:
    """Images that are made while a student learns: one more row of a comparison."""

    images_per_class: int = setting(
        0,
        "images of each class that are made while a student learns, as the folder's were; 0: no such row",
    )
    pool: int = setting(
        4096, "images of the stream that a student draws from: the latest; it bounds memory"
    )

    def __post_init__(self) -> None:
        check_not_negative(self, images_per_class="0 is no stream")
        check_at_most(self, images_per_class=(MOST_STREAMED, "they are kept on the disk"))
        check_positive(self, "pool")


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """What is cut off a network before it is taught again."""

    ratio: float = setting(0.7, "share of its channels that each layer loses (paper: 0.5 to 0.9)")

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ConfigError(
                f"ratio is {self.ratio}, expected a fraction between 0 and 1: write 70 % as 0.7; 0 would prune "
                "nothing and 1 everything."
            )


@dataclass(frozen=True, kw_only=True)
class Quantisation:
    """How a network is brought to int8: ONNX Runtime's static quantiser, with pairs of Quantize and Dequantize."""

    calibration_images: int = setting(
        128,
        "images that the ranges of the activations are read from, drawn again for each seed; all of a row that has no "
        "more, whose seeds then agree",
    )
    calibration: Literal["minmax", "entropy", "percentile"] = setting(
        "minmax",
        "what of the activations makes a range: all, the least entropy lost, or all but outliers",
    )
    per_channel: bool = setting(
        True, "one scale for each channel of the weights, not one for each layer"
    )

    def __post_init__(self) -> None:
        check_choices(self)
        check_positive(self, "calibration_images")
