"""Settings of selection."""

from dataclasses import dataclass
from typing import Literal

from engine.errors import ConfigError
from engine.settings.fields import check_choices, setting


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which images of a data set are kept, class by class: the rest of what was generated in excess goes."""

    keep: float = setting(
        0.5, "share of each class's images that is kept; 0.5 where twice as many were made"
    )
    agreement: bool = setting(True, "images that the classifier takes for another class go first")
    by: Literal["l_bn_share", "l_bn", "energy", "chance"] = setting(
        "l_bn_share",
        "what goes next; l_bn_share: images without which L_BN of all that is left falls most; l_bn: a high L_BN of "
        "their own; energy: a high energy -logsumexp(logits), as GenQ filters; chance: any",
    )
    selection_seed: int = setting(0, "seed of `chance`")

    def __post_init__(self) -> None:
        check_choices(self)
        if not 0 < self.keep <= 1:
            raise ConfigError(
                f"keep is {self.keep}, expected a share above 0 and at most 1: write half of the images as 0.5."
            )
