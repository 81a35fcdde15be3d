"""Every setting of the engine: frozen, checked once, one default for each. The CLI is built from these fields.

Help texts live in the field's metadata, so that the command line and the docs say the same.
"""

from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_type_hints

from engine.errors import ConfigError

DTYPES = ("float32", "float16", "bfloat16", "auto")
"""Names of the dtypes of networks; auto is float16 on a GPU and float32 on the CPU."""
AUTO_ATTENTION = "auto"
"""The attention backend that the plan chooses: xformers where it is installed and no slower, else SDPA."""
CLASSIFIERS_PX = 0
"""`Alignment.decode_px`: the least size that the classifier's own preprocessing needs."""
PRIORS_PX = -1
"""`Alignment.decode_px`: the prior's own size."""


def setting(default: Any, help: str) -> Any:
    """A config field with its one default and the text that the command line shows."""
    return field(default=default, metadata={"help": help})


def check_choices(config: Any) -> None:
    """Raise ConfigError where a `Literal` field of a config holds another value."""
    hints = get_type_hints(type(config))
    for entry in fields(config):
        choices = get_args(hints[entry.name])
        if (
            getattr(hints[entry.name], "__origin__", None) is Literal
            and getattr(config, entry.name) not in choices
        ):
            raise ConfigError(
                f"{type(config).__name__}.{entry.name} is {getattr(config, entry.name)!r}, "
                f"expected one of {', '.join(map(repr, choices))}: choose one of these."
            )


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Domain alignment guidance (DAG): how the classifier's BatchNorm statistics pull on the latents.

    The defaults come from a trial on the embedded models and are provisional: `bench/results/guidance.json` has what
    they reach, on other seeds, beside `Alignment.paper()`, DDIS as published. With the embedded classifiers L_BN in
    relative weights falls from about 8 to 0.3 and cross-entropy starts near 1: the class counts once the domain is
    near.
    """

    target: Literal["clean", "noisy"] = setting(
        "clean",
        "what is moved: the predicted clean latent (as MPGD does), or z_t before the UNet (paper, eq. 9)",
    )
    step: Literal["relative", "raw"] = setting(
        "relative",
        "relative: a move of scale x the noise level, in rms; raw: scale x gradient, to be re-tuned per classifier",
    )
    scale: float = setting(0.4, "length of a guidance step, in the unit that `step` names")
    start: float = setting(0.0, "fraction of the schedule at which guidance begins")
    stop: float = setting(
        0.8, "fraction of the schedule at which guidance ends; the last step is never guided"
    )
    statistics: Literal["batch", "image"] = setting(
        "batch", "moments over the images that are sampled together, or over each image alone (paper's code)"
    )
    class_weight: float = setting(
        0.3,
        "weight of the classifier's cross-entropy beside L_BN, from the same pass (as in DeepInversion; paper: 0)",
    )
    norm: Literal["l2", "l2_squared"] = setting(
        "l2_squared", "the norm of each gap in L_BN (paper: l2); squared, the largest gaps close first"
    )
    layers: Literal["relative", "uniform", "first"] = setting(
        "relative",
        "weight of a layer: gaps in units of its stored statistics' norms; all equal (paper); "
        "or equal but the first x10 (DeepInversion)",
    )
    decoder: Literal["auto", "full", "tiny"] = setting(
        "auto",
        "what guidance sees the latents through: the full VAE (paper), or a tiny decoder where there is one",
    )
    decode_px: int = setting(
        CLASSIFIERS_PX,
        "side of the image that the tiny decoder makes for guidance; 0: the least that the classifier's preprocessing "
        "needs; -1: the prior's own size, which no number exceeds (paper)",
    )

    def __post_init__(self) -> None:
        check_choices(self)
        if not 0 <= self.start < self.stop <= 1:
            raise ConfigError(
                f"alignment window is [{self.start}, {self.stop}), expected 0 <= start < stop <= 1: "
                "both are fractions of the schedule, not step numbers. Divide a step number by the number of steps."
            )
        if not 0 <= self.class_weight < float("inf"):
            raise ConfigError(
                f"class weight is {self.class_weight}, expected a finite number >= 0: 0 leaves the class to the prompt."
            )
        if not 0 <= self.scale < float("inf"):
            raise ConfigError(
                f"alignment scale is {self.scale}, expected a finite number >= 0: "
                "0 turns guidance off, a negative one would push away from the training domain."
            )
        if self.decode_px < PRIORS_PX:
            raise ConfigError(
                f"decode_px is {self.decode_px}, expected a side in pixels, {CLASSIFIERS_PX} or {PRIORS_PX}: "
                f"{CLASSIFIERS_PX} is what the classifier needs, {PRIORS_PX} the prior's own size."
            )

    @classmethod
    def paper(cls, scale: float = 0.2) -> "Alignment":
        """DDIS as published (arXiv 2506.15381, eq. 9-12): z_t, un-normalised step of eta = 0.2, single images."""
        return cls(
            target="noisy", step="raw", scale=scale, start=0.0, stop=1.0,
            statistics="image", class_weight=0.0, norm="l2", layers="uniform",
            decoder="full", decode_px=PRIORS_PX,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The DDIM loop with classifier-free guidance."""

    steps: int = setting(30, "number of denoising steps")
    cfg: float = setting(7.5, "classifier-free guidance scale (paper: 15); 1 is no guidance")
    eta: float = setting(
        1.0, "DDIM's eta: noise that each step renews, from 0 (none; paper) to 1 (as much as DDPM adds)"
    )
    batch: int = setting(
        28, "images that are sampled together; with batch statistics they share their moments"
    )
    negative_prompt: str = setting("", "text of the unconditional branch")

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ConfigError(
                f"sampling has {self.steps} steps of {self.batch} images, expected at least 1 of each: "
                "give positive whole numbers."
            )
        if not 0 <= self.eta <= 1:
            raise ConfigError(
                f"eta is {self.eta}, expected a number from 0 to 1: 0 is deterministic DDIM, 1 renews as much "
                "noise as DDPM. The length of a guidance step is the alignment's scale."
            )
        if not 1 <= self.cfg < float("inf"):
            raise ConfigError(
                f"cfg is {self.cfg}, expected a finite number >= 1: 1 is the conditional model alone, 15 the paper's."
            )

    @classmethod
    def paper(cls) -> "Sampling":
        """Sampling as in the paper: 30 deterministic steps with CFG 15."""
        return cls(steps=30, cfg=15.0, eta=0.0)


@dataclass(frozen=True, kw_only=True)
class TokenLearning:
    """Class alignment tokens (CAT): how one embedding per class is learned (paper, section 3.3).

    The last step of a schedule draws details only; the early ones decide what an image shows. With gradient "drawn"
    the loss reads the clean image that an early step predicts, and 5 updates read each of the 5 steps from which it is
    drawn once. A token then takes at most 1,536 evaluations of the UNet and 480 backward ones, without those of
    finished images; the published schedule takes 36,000 and 1,200.
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
    target_accuracy: float = setting(
        0.7, "stop a class once more than this share of an epoch is recognised (paper: 0.7)"
    )
    stop_on: Literal["predicted", "finished"] = setting(
        "finished",
        "what early stopping counts: the images that the loss reads, or, once these pass, the same ones sampled on to "
        "their end (alike with gradient 'last': paper)",
    )
    gradient: Literal["last", "drawn"] = setting(
        "drawn",
        "the denoising step that carries the gradient: the last (paper), or one drawn for each batch (as ReFL does), "
        "where sampling then ends",
    )
    domain_weight: float = setting(
        0.3,
        "weight of the batch's L_BN, in relative weights and squared, beside the cross-entropy (paper: 0)",
    )
    augment: bool = setting(
        True, "show the classifier each image flipped, shifted and zoomed at random (paper: not)"
    )
    init: Literal["random", "a", "class name"] = setting(
        "a",
        "where a token starts: a random embedding (paper), that of 'a', or the mean of the class name's",
    )
    skip_passing: bool = setting(True, "leave out classes that already pass with the plain prompt")

    def __post_init__(self) -> None:
        check_choices(self)
        if self.epochs < 1 or self.images_per_epoch < 1 or self.updates_per_trajectory < 1:
            raise ConfigError(
                f"token learning has {self.epochs} epochs of {self.images_per_epoch} images and "
                f"{self.updates_per_trajectory} updates, expected at least 1 of each: give positive whole numbers."
            )
        if self.steps < 0:
            raise ConfigError(
                f"token learning has {self.steps} sampler steps, expected a whole number >= 0: 0 takes as many as "
                "sampling does."
            )
        if self.gradient == "last" and self.updates_per_trajectory > 1:
            raise ConfigError(
                f"token learning has {self.updates_per_trajectory} updates for each trajectory with the gradient of "
                "the last step, expected 1: they would all read the same step. Set updates_per_trajectory to 1, or the "
                "gradient to 'drawn'."
            )
        if not 0 < self.learning_rate < float("inf"):
            raise ConfigError(
                f"token learning rate is {self.learning_rate}, expected a finite number > 0: the paper uses 0.005."
            )
        if not 0 <= self.target_accuracy <= 1:
            raise ConfigError(
                f"target accuracy is {self.target_accuracy}, expected a fraction from 0 to 1: write 70 % as 0.7."
            )
        if not 0 <= self.domain_weight < float("inf"):
            raise ConfigError(
                f"domain weight is {self.domain_weight}, expected a finite number >= 0: 0 leaves the token to the "
                "cross-entropy alone."
            )

    @classmethod
    def paper(cls) -> "TokenLearning":
        """Token learning as in the paper: random start, Adam at 0.005, the gradient of the last step alone."""
        return cls(
            learning_rate=0.005, optimizer="adam", epochs=30, images_per_epoch=20, steps=0,
            updates_per_trajectory=1, target_accuracy=0.7, stop_on="predicted", gradient="last", domain_weight=0.0,
            augment=False, init="random",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How images are compared with a reference. The defaults are those of the metrics' papers."""

    neighbours: int = setting(3, "k of precision and recall (Kynkaanniemi: 3)")
    density_neighbours: int = setting(5, "k of density and coverage (Naeem: 5)")
    kid_subsets: int = setting(100, "random subsets that KID is averaged over")
    kid_subset_size: int = setting(1000, "images of each set in a subset, fewer where a set has not so many")
    prd_clusters: int = setting(20, "clusters of Sajjadi's precision and recall (paper: 20)")
    resamples: int = setting(
        100,
        "bootstrap resamples of each interval; FID reads its features once for each, 0 leaves intervals out",
    )
    image_batch: int = setting(64, "images that pass the feature network together")
    evaluation_seed: int = setting(0, "seed of subsets, clusters and resamples")

    def __post_init__(self) -> None:
        for name in ("neighbours", "density_neighbours", "kid_subsets", "prd_clusters", "image_batch"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"evaluation's {name} is {getattr(self, name)}, expected at least 1: give a positive whole number."
                )
        if self.kid_subset_size < 2:
            raise ConfigError(
                f"kid_subset_size is {self.kid_subset_size}, expected at least 2: KID compares pairs of images."
            )
        if self.resamples < 0 or self.resamples == 1:
            raise ConfigError(
                f"resamples is {self.resamples}, expected 0 or at least 2: an interval needs several values, 0 leaves "
                "intervals out."
            )
