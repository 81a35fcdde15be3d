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
        3, "runs of each row, with seeds 0, 1, ...; mean and spread are taken over them"
    )
    held_out: float = setting(
        0.2,
        "share of each class of the folder to hold out if there are no test images; agreement with the teacher is "
        "measured on it",
    )
    noise: bool = setting(
        True,
        "also add a row that learns from noise; not needed again for further folders of the same size",
    )
    equal_sizes: bool = setting(
        True,
        "cut each class to the smallest row's count; otherwise each row uses all of its images",
    )

    def __post_init__(self) -> None:
        check_positive(self, "seeds")
        if not 0 < self.held_out < 1:
            raise ConfigError(
                f"held_out is {self.held_out}, expected a fraction between 0 and 1: write 20 % as 0.2."
            )


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """How a student learns from the teacher's soft labels alone (Hinton et al. 2015), without class labels."""

    epochs: int = setting(30, "how often each image is shown")
    updates: int = setting(
        0,
        "updates of a student instead of epochs, so that larger rows train no longer; 0: use epochs",
    )
    batch: int = setting(32, "images per update")
    learning_rate: float = setting(
        3e-3,
        "AdamW's peak learning rate, with warm-up over a tenth of the updates, then cosine decay",
    )
    weight_decay: float = setting(0.01, "AdamW's weight decay")
    temperature: float = setting(
        4.0,
        "what logits are divided by before the softmax; higher values teach more about the wrong classes",
    )
    soft_labels: Literal["online", "manifest"] = setting(
        "online",
        "online: the teacher labels each view that the student sees; manifest: use the logits that generate saved",
    )
    augment: bool = setting(True, "show each image flipped, shifted and zoomed at random")
    mix: Literal["none", "mixup", "cutmix", "both"] = setting(
        "both",
        "combine two images into one; mixup: blend them; cutmix: paste a box of one into the other; both: batches of "
        "each kind. The teacher labels what the student sees",
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
        """Thirty epochs: enough to rank sets of a few hundred images."""
        return cls()

    @classmethod
    def long(cls) -> "Distillation":
        """Two hundred epochs: patient distillation (Beyer et al. 2022), for students that will be deployed."""
        return cls(epochs=200)

    @classmethod
    def fitting(cls) -> "Distillation":
        """For a new network that learns the class of each image, without a teacher."""
        return cls(epochs=60, temperature=1.0, soft_labels="manifest", mix="none")

    @classmethod
    def fine_tuning(cls) -> "Distillation":
        """For weights that start near their goal, such as those of a pruned network."""
        return cls(learning_rate=1e-3)


@dataclass(frozen=True, kw_only=True)
class Streaming:
    """A further row of a comparison, whose images are made while the student learns."""

    images_per_class: int = setting(
        0,
        "images per class to make while a student learns, with the folder's settings; 0: no such row",
    )
    pool: int = setting(
        4096, "how many of the latest stream images a student draws from; this bounds memory"
    )

    def __post_init__(self) -> None:
        check_not_negative(self, images_per_class="0 is no stream")
        check_at_most(self, images_per_class=(MOST_STREAMED, "they are kept on the disk"))
        check_positive(self, "pool")


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """How much is pruned from a network before it is retrained."""

    ratio: float = setting(0.7, "share of channels to prune from each layer (paper: 0.5 to 0.9)")

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ConfigError(
                f"ratio is {self.ratio}, expected a fraction between 0 and 1: write 70 % as 0.7; 0 would prune "
                "nothing and 1 everything."
            )


@dataclass(frozen=True, kw_only=True)
class Quantisation:
    """How a network is quantised to int8: by ONNX Runtime's static quantiser, with Quantize and Dequantize pairs."""

    calibration_images: int = setting(
        128,
        "images that set the ranges of the activations, drawn again for each seed; a row without that many uses all of "
        "its images, so its seeds give equal results",
    )
    calibration: Literal["minmax", "entropy", "percentile"] = setting(
        "minmax",
        "how the range of activations is set; minmax: include all; entropy: lose the least entropy; percentile: leave "
        "outliers out",
    )
    per_channel: bool = setting(
        True, "one scale per channel of the weights, instead of one per layer"
    )

    def __post_init__(self) -> None:
        check_choices(self)
        check_positive(self, "calibration_images")
