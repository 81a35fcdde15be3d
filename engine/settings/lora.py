"""Settings of distilling guidance into an adapter."""

from dataclasses import dataclass

from engine.errors import ConfigError
from engine.settings.fields import check_positive, setting


@dataclass(frozen=True, kw_only=True)
class LoraLearning:
    """Guidance distilled into a low-rank adapter (LoRA, arXiv 2106.09685) of the prior's denoiser.

    The adapted denoiser predicts in one pass, without classifier, decoder or CFG's second branch, the clean latents
    that guided sampling went towards (as arXiv 2210.03142 does for CFG alone).
    """

    rank: int = setting(8, "rank of the adapter's matrices")
    learning_rate: float = setting(
        1e-3, "Adam's learning rate at the start; it falls linearly to 0"
    )
    epochs: int = setting(2, "times that each step of each image is learned from")
    batch: int = setting(
        16,
        "images whose gradients make one update, at most: they share a step and a group of --batch",
    )

    def __post_init__(self) -> None:
        check_positive(self, "rank", "epochs", "batch")
        if not 0 < self.learning_rate < float("inf"):
            raise ConfigError(
                f"learning_rate is {self.learning_rate}, expected a finite number > 0: correct it; 0.001 is the "
                "default."
            )
