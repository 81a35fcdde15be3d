"""Settings of learning class alignment tokens."""

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

MOST_IMAGES = 2**12
"""Images whose gradients make one update, and those of a check."""
MOST_DOUBLINGS = 8


@dataclass(frozen=True, kw_only=True)
class TokenLearning:
    """Class alignment tokens (CAT): how one embedding per class is learned (paper, section 3.3).

    The last step of a schedule only draws details; the early ones decide what an image shows. With gradient "drawn" the
    loss reads the clean image that an early step predicts. The step is drawn from 5 steps, and 5 updates use each of
    them once. A token then takes at most 1,536 forward and 480 backward passes of the denoiser. Not included are
    finishing images, 960 passes to check the token and, for at most 16 classes, 400 to try the words. The published
    schedule takes 36,000 and 1,200.
    """

    learning_rate: float = setting(0.01, "Adam's learning rate (paper: 0.005)")
    optimizer: Literal["adam", "adam8bit"] = setting(
        "adam",
        "adam: separate moments for each row; adam8bit: bitsandbytes' 8-bit Adam on the rows that learn side by side "
        "(needs the extra 'gpu'; 32-bit if they have fewer than 4,096 elements)",
    )
    epochs: int = setting(8, "largest number of epochs for a token (paper: 30, of one update each)")
    images_per_epoch: int = setting(12, "images per update (paper: 20)")
    steps: int = setting(10, "sampler steps while learning; 0: as many as for sampling (paper)")
    updates_per_trajectory: int = setting(
        5,
        "updates on the images of an epoch, each at a different drawn step, before new images are drawn (paper: 1)",
    )
    side_by_side: int = setting(
        0,
        "classes that learn side by side, in batches that mix them; 0: as many as `batch`. A smaller number makes more "
        "cohorts for workers and shares, and different tokens, equally good",
    )
    target_accuracy: float = setting(
        0.7,
        "stop a class once more than this share of an epoch's images is recognised (paper: 0.7)",
    )
    stop_on: Literal["predicted", "finished"] = setting(
        "finished",
        "images that early stopping judges; predicted: those that the loss reads; finished: once these pass, the same "
        "images sampled to the end (no difference with gradient 'last': paper)",
    )
    place: Literal["before", "instead"] = setting(
        "before",
        "position of a token in the prompt: before the class's name (paper), or instead of it, for names that mean "
        "something else to the prior",
    )
    gradient: Literal["last", "drawn", "early"] = setting(
        "drawn",
        "denoising step that carries the gradient; last: the last step (paper); drawn: one drawn for each batch, at "
        "which sampling stops (as in ReFL); early: three early steps, to which the gradient of the finished image is "
        "carried back (as in DRTune)",
    )
    norm_cap: float = setting(
        0.0,
        "largest norm of a token, in units of the median norm of the class names' word embeddings; 0: no limit (paper)",
    )
    domain_weight: float = setting(
        0.3,
        "weight of the batch's L_BN (relative layers, squared norm), which is added to the cross-entropy (paper: 0)",
    )
    augment: bool = setting(
        True, "show the classifier each image flipped, shifted and zoomed at random (paper: off)"
    )
    init: Literal["random", "a", "class name", "words"] = setting(
        "words",
        "start of a token; random: a random embedding (paper); a: that of 'a'; class name: the mean of the name's "
        "embeddings; words: that of the one of `words` whose plain images are nearest to the classifier's statistics, "
        "or 'a' if none is nearer than no word",
    )
    words: str = setting(
        "real, painted, cartoon, sketched",
        "with init 'words': comma-separated styles to try before a class's name",
    )
    skip_passing: bool = setting(True, "skip classes that already pass with the plain prompt")
    check_images: int = setting(
        16,
        "images per class for the final choice between its token, the token's start and no token; 0: keep the token "
        "without a check (paper)",
    )
    check_doublings: int = setting(
        2,
        "how often the check doubles its images for classes that it does not decide, beyond chance, either way",
    )

    def __post_init__(self) -> None:
        check_choices(self)
        check_positive(self, "epochs", "images_per_epoch", "updates_per_trajectory")
        check_at_most(
            self, images_per_epoch=(MOST_IMAGES, "a token learns from updates, and this is one")
        )
        if self.steps < 0:
            raise ConfigError(
                f"steps is {self.steps}, expected a whole number >= 0: give 0 to take as many as sampling does."
            )
        if self.gradient != "drawn" and self.updates_per_trajectory > 1:
            steps = "the last step" if self.gradient == "last" else "early steps"
            raise ConfigError(
                f"updates_per_trajectory is {self.updates_per_trajectory} with the gradient of {steps}, expected 1: "
                "they would all read the same images. Set it to 1, or the gradient to 'drawn'."
            )
        if self.place == "instead" and self.init == "words":
            raise ConfigError(
                f"init is {self.init!r} and `place` is {self.place!r}, expected a start that means the class: set "
                "`init` to 'class name', or `place` to 'before'."
            )
        if self.init == "words" and not self.styles:
            raise ConfigError(
                f"words is {self.words!r} and tokens start from words, expected at least one, such as 'painted, "
                "sketched': name the styles that the images may have."
            )
        if self.check_images < 0 or self.check_images == 1:
            raise ConfigError(
                f"check_images is {self.check_images}, expected 0 or at least 2: one alone says nothing of "
                "chance. Raise it, or give 0 to leave the check out."
            )
        if not 0 <= self.check_doublings <= MOST_DOUBLINGS:
            raise ConfigError(
                f"check_doublings is {self.check_doublings}, expected a whole number from 0 to {MOST_DOUBLINGS}: "
                f"{MOST_DOUBLINGS} take {2**MOST_DOUBLINGS} times `check_images`. Correct it."
            )
        if (most := self.check_images * 2**self.check_doublings) > MOST_IMAGES:
            raise ConfigError(
                f"check_images is {self.check_images} and `check_doublings` is {self.check_doublings}, up to {most:,} "
                f"images a class, expected at most {MOST_IMAGES:,}: lower one of them."
            )
        if not 0 < self.learning_rate < float("inf"):
            raise ConfigError(
                f"learning_rate is {self.learning_rate}, expected a finite number > 0: correct it; the paper "
                "uses 0.005."
            )
        if not 0 <= self.target_accuracy <= 1:
            raise ConfigError(
                f"target_accuracy is {self.target_accuracy}, expected a fraction from 0 to 1: write 70 % as 0.7."
            )
        check_not_negative(
            self,
            domain_weight="0 leaves the token to the cross-entropy alone",
            norm_cap="0 lets tokens grow",
            side_by_side="0 lets as many classes learn side by side as `batch` says",
        )

    @property
    def styles(self) -> tuple[str, ...]:
        """The words, one by one."""
        return tuple(word.strip() for word in self.words.split(",") if word.strip())

    @classmethod
    def instead(cls) -> "TokenLearning":
        """Tokens in place of names that mean something else to the prior, such as 'mail bag'.

        They start at the mean of the name's word embeddings and lower the cross-entropy of finished images. Learn them
        with method "plain": guidance makes the classifier see the class in images that show something else.
        """
        return cls(
            place="instead",
            init="class name",
            gradient="early",
            norm_cap=2.0,
            learning_rate=0.02,
            epochs=24,
            images_per_epoch=16,
            updates_per_trajectory=1,
            domain_weight=0.0,
            check_doublings=3,
        )

    @classmethod
    def paper(cls) -> "TokenLearning":
        """Token learning as in the paper: random start, Adam at 0.005, gradient of the last step only."""
        return cls(
            learning_rate=0.005,
            optimizer="adam",
            epochs=30,
            images_per_epoch=20,
            steps=0,
            updates_per_trajectory=1,
            target_accuracy=0.7,
            stop_on="predicted",
            place="before",
            gradient="last",
            norm_cap=0.0,
            domain_weight=0.0,
            augment=False,
            init="random",
            skip_passing=False,
            check_images=0,
            check_doublings=0,
        )
