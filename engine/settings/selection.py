"""Settings of selection."""

from dataclasses import dataclass
from typing import Literal

from engine.errors import ConfigError
from engine.settings.fields import check_choices, setting


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which images of a data set are kept, class by class; the rest are dropped."""

    keep: float = setting(
        0.5, "share of each class's images to keep; 0.5 if twice as many were made"
    )
    agreement: bool = setting(
        True, "first drop images that the classifier assigns to another class"
    )
    by: Literal["l_bn_share", "l_bn", "energy", "chance"] = setting(
        "l_bn_share",
        "which images to drop next; l_bn_share: those whose removal lowers L_BN of the rest most; l_bn: those with a "
        "high L_BN of their own; energy: those with a high energy -logsumexp(logits), as in GenQ; chance: random ones",
    )
    selection_seed: int = setting(0, "seed for `chance`")

    def __post_init__(self) -> None:
        check_choices(self)
        if not 0 < self.keep <= 1:
            raise ConfigError(
                f"keep is {self.keep}, expected a share above 0 and at most 1: write half of the images as 0.5."
            )
