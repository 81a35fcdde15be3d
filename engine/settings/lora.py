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
    suggests as future work.
    """

    objective: Literal["guidance", "class"] = setting(
        "guidance",
        "what the adapter learns; guidance: what guidance and CFG do, so that sampling needs no classifier; class: to "
        "lower the classifier's cross-entropy, as a class token does",
    )

    rank: int = setting(8, "rank of the adapter's matrices")
    learning_rate: float = setting(
        1e-3, "Adam's learning rate at the start; it falls linearly to 0"
    )
    epochs: int = setting(
        2,
        "how often each step of each image is learned from; with objective 'class', how often new images are drawn",
    )
    batch: int = setting(
        16,
        "at most this many images per update; if guidance is learned, they come from the same step and the same "
        "group of --batch images",
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
