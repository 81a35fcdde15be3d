"""Settings of distilling guidance into an adapter."""

from dataclasses import dataclass
from typing import Literal

from engine.errors import ConfigError
from engine.settings.fields import check_at_most, check_choices, check_positive, setting

MOST_RANK = 2**12


@dataclass(frozen=True, kw_only=True)
class LoraLearning:
    """A low-rank adapter (LoRA, arXiv 2106.09685) of the prior's denoiser, and what it learns.

    With objective "guidance" the adapted denoiser predicts in one pass, without classifier, decoder or CFG's second
    branch, the clean latents that guided sampling went towards (as arXiv 2210.03142 does for CFG alone). With "class"
    it takes the place of tokens: one adapter lowers the classifier's cross-entropy for all classes, which the paper
    names as further work.
    """

    objective: Literal["guidance", "class"] = setting(
        "guidance",
        "guidance: what guidance and CFG do, so that sampling needs no classifier; class: the classifier's "
        "cross-entropy, as a class token has it",
    )

    rank: int = setting(8, "rank of the adapter's matrices")
    learning_rate: float = setting(
        1e-3, "Adam's learning rate at the start; it falls linearly to 0"
    )
    epochs: int = setting(
        2,
        "times that each step of each image is learned from; with objective 'class', times that new images are "
        "drawn",
    )
    batch: int = setting(
        16,
        "images whose gradients make one update, at most: they share a step and, where guidance is learned, a group "
        "of --batch",
    )

    def __post_init__(self) -> None:
        check_choices(self)
        check_positive(self, "rank", "epochs", "batch")
        check_at_most(self, rank=(MOST_RANK, "an adapter of low rank is small"))
        if not 0 < self.learning_rate < float("inf"):
            raise ConfigError(
                f"learning_rate is {self.learning_rate}, expected a finite number > 0: correct it; 0.001 is the "
                "default."
            )

    @classmethod
    def of_classes(cls) -> "LoraLearning":
        """An adapter in place of class tokens."""
        return cls(objective="class", rank=4, epochs=40)
