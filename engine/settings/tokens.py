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
"""Images whose gradients make one update."""


@dataclass(frozen=True, kw_only=True)
class TokenLearning:
    """Class alignment tokens (CAT): how one embedding per class is learned (paper, section 3.3).

    The last step of a schedule draws details only; the early ones decide what an image shows. With gradient "drawn"
    the loss reads the clean image that an early step predicts, and 5 updates read each of the 5 steps from which it is
    drawn once. A token then takes at most 1,536 evaluations of the denoiser and 480 backward ones, without those of
    finished images, 960 of its check, and in at most 16 classes 400 of the trial of the words; the published schedule
    takes 36,000 and 1,200.
    """

    learning_rate: float = setting(0.01, "Adam's learning rate (paper: 0.005)")
    optimizer: Literal["adam", "adam8bit"] = setting(
        "adam",
        "adam: moments of each row by itself; adam8bit: bitsandbytes' 8-bit Adam on the rows that learn side by side "
        "(needs the extra 'gpu'; in 32 bit where they have fewer than 4,096 elements)",
    )
    epochs: int = setting(8, "epochs of a token at most (paper: 30, of one update each)")
    images_per_epoch: int = setting(12, "images whose gradients make one update (paper: 20)")
    steps: int = setting(10, "sampler steps while learning; 0: as many as sampling takes (paper)")
    updates_per_trajectory: int = setting(
        5,
        "updates that read an epoch's images, each at another of the drawn steps, before new ones are drawn "
        "(paper: 1)",
    )
    side_by_side: int = setting(
        0,
        "classes that learn side by side, in batches that mix them; 0: as many as `batch`. Fewer make more cohorts for "
        "workers and shares, and other tokens of like worth",
    )
    target_accuracy: float = setting(
        0.7, "stop a class once more than this share of an epoch is recognised (paper: 0.7)"
    )
    stop_on: Literal["predicted", "finished"] = setting(
        "finished",
        "what early stopping counts: the images that the loss reads, or, once these pass, the same ones sampled on to "
        "their end (alike with gradient 'last': paper)",
    )
    place: Literal["before", "instead"] = setting(
        "before",
        "where a token stands in the prompt: before the class's name (paper), or instead of it, for names that the "
        "prior takes for something else",
    )
    gradient: Literal["last", "drawn", "early"] = setting(
        "drawn",
        "the denoising step that carries the gradient: the last (paper); one drawn for each batch (as ReFL does), "
        "where sampling then ends; or three early ones, to which the gradient of the finished image is taken back (as "
        "DRTune does)",
    )
    norm_cap: float = setting(
        0.0,
        "largest norm of a token, in medians of the class names' word embeddings; 0: no limit (paper)",
    )
    domain_weight: float = setting(
        0.3,
        "weight of the batch's L_BN, in relative weights and squared, besides the cross-entropy (paper: 0)",
    )
    augment: bool = setting(
        True, "show the classifier each image flipped, shifted and zoomed at random (paper: not)"
    )
    init: Literal["random", "a", "class name", "words"] = setting(
        "words",
        "where a token starts: a random embedding (paper), that of 'a', the mean of the class name's, or that of the "
        "one of `words` that lowers L_BN of plain images and suits the classifier best, 'a' where none does",
    )
    words: str = setting(
        "real, painted, cartoon, sketched",
        "with init 'words': styles to try before a class's name, by commas",
    )
    skip_passing: bool = setting(True, "leave out classes that already pass with the plain prompt")
    check_images: int = setting(
        16,
        "images of each class that decide in the end between its token, the start of it and no token; 0: the token "
        "is kept unseen (paper)",
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
                "tokens stand in place of the names and start from words of a style, expected a start that means the "
                "class: set init to 'class name', or place to 'before'."
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
        """Tokens in place of names that the prior takes for something else, such as 'mail bag'.

        They start at the mean of the name's words and follow the cross-entropy of finished images.
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
            check_images=64,
        )

    @classmethod
    def paper(cls) -> "TokenLearning":
        """Token learning as in the paper: random start, Adam at 0.005, the gradient of the last step alone."""
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
            check_images=0,
        )
