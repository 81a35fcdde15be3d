"""Settings of domain alignment guidance."""

from dataclasses import dataclass, field
from math import ceil
from typing import Literal

from engine.errors import ConfigError
from engine.settings.fields import check_choices, check_not_negative, check_positive, setting
from engine.settings.polish import Polish

CLASSIFIERS_PX = 0
"""`Alignment.decode_px`: the smallest size that the classifier's own preprocessing needs."""
PRIORS_PX = -1
"""`Alignment.decode_px`: the prior's own size."""
ROUNDING = 1e-9
"""Tolerance when a fraction of the schedule is converted to a step number."""


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Domain alignment guidance (DAG): how the classifier's statistics pull on the latents.

    The defaults come from trials on the embedded models, most recently `bench/studies/guidance_study.py`;
    `bench/results/evidence.json` has the results of the defaults on other seeds. The scale was chosen beside what
    students learn (`bench/studies/choices.py`), all else on earlier models of 32 px. `Alignment.paper()` is DDIS as
    published.
    """

    target: Literal["clean", "noisy"] = setting(
        "clean",
        "what is moved: the predicted clean latent (as MPGD does), or z_t before the denoiser (paper, eq. 9)",
    )
    step: Literal["relative", "raw"] = setting(
        "relative",
        "relative: each move has an rms of scale x the noise level; raw: scale x gradient, which needs tuning for "
        "each classifier",
    )
    scale: float = setting(0.15, "length of a move, in the units set by `step`")
    moves: int = setting(
        1,
        "moves in each guided step, for sampling in few steps; a move runs decoder and classifier, but not the "
        "denoiser. With several relative moves, the unit is the noise level at the end of the step",
    )
    start: float = setting(0.0, "fraction of the schedule at which guidance begins")
    stop: float = setting(
        0.9, "fraction of the schedule at which guidance ends; the last step is never guided"
    )
    stride: int = setting(
        1,
        "guide only every k-th step, with a move that is sqrt(k) times as long (raw: k times)",
    )
    stride_from: float = setting(
        0.0,
        "fraction of the schedule at which the stride begins; before that, every step is guided",
    )
    statistics: Literal["batch", "image"] = setting(
        "batch",
        "batch: moments over all images that are sampled together; image: over each image alone (paper's code)",
    )
    domain_weight: float = setting(
        1.0,
        "weight of L_BN, or of the energy or patch entropy that replaces it; 0: guide by the class alone, which needs "
        "no statistics of the classifier",
    )
    class_weight: float = setting(
        0.3,
        "weight of the classifier's cross-entropy, which is added to L_BN without an extra pass (as in DeepInversion; "
        "paper: 0)",
    )
    norm: Literal["l2", "l2_squared"] = setting(
        "l2_squared",
        "norm of each gap in L_BN (paper: l2); with l2_squared, the largest gaps close first",
    )
    layers: Literal["relative", "channels", "uniform", "first"] = setting(
        "relative",
        "weights of the layers; relative: a layer's gaps in units of the norm of its stored statistics; channels: each "
        "channel's gaps in units of its own; uniform: all equal (paper); first: the first layer x10 (DeepInversion)",
    )
    decoder: Literal["auto", "full", "tiny"] = setting(
        "auto",
        "decoder that guidance uses; full: the VAE (paper); tiny: a tiny decoder; auto: a tiny one if the prior has it",
    )
    decode_px: int = setting(
        CLASSIFIERS_PX,
        "side of the image that the tiny decoder makes for guidance; 0: the smallest that the classifier's "
        "preprocessing needs; -1: the prior's own size, which is also the maximum (paper)",
    )

    polish: Polish = field(default_factory=Polish)

    def __post_init__(self) -> None:
        check_choices(self)
        check_positive(self, "moves", "stride")
        if not 0 <= self.start < self.stop <= 1:
            raise ConfigError(
                f"start is {self.start} and stop is {self.stop}, expected 0 <= start < stop <= 1: "
                "both are fractions of the schedule, not step numbers. Divide a step number by the number of steps."
            )
        if not 0 <= self.stride_from <= 1:
            raise ConfigError(
                f"stride_from is {self.stride_from}, expected a fraction of the schedule from 0 to 1, not a step's "
                "number. Divide it by the number of steps."
            )
        check_not_negative(
            self,
            class_weight="0 leaves the class to the prompt",
            domain_weight="0 leaves L_BN out",
            scale="0 turns guidance off, a negative one would push away from the training domain",
        )
        if not self.domain_weight and not self.class_weight:
            raise ConfigError(
                "domain_weight is 0 and so is `class_weight`, expected one above 0: guidance would have nothing to "
                "descend. Raise one of them, or choose method 'plain'."
            )
        if self.decode_px < PRIORS_PX:
            raise ConfigError(
                f"decode_px is {self.decode_px}, expected a side in pixels, {CLASSIFIERS_PX} or {PRIORS_PX}: "
                f"{CLASSIFIERS_PX} is what the classifier needs, {PRIORS_PX} the prior's own size. "
                "Choose one."
            )

    def stride_at(self, index: int, total: int) -> int:
        """For how many steps of a schedule of `total` the step at `index` guides: 0 if it is not guided.

        The last step is never guided, because no step would follow to clean up after it.
        """
        inside = self.start <= index / total < self.stop and index + 1 < total
        if not inside or not self.scale:
            return 0
        if index / total < self.stride_from:
            return 1
        first = ceil(max(self.start, self.stride_from) * total - ROUNDING)
        if (index - first) % self.stride:
            return 0
        end = min(ceil(self.stop * total - ROUNDING), total - 1)
        return min(self.stride, end - index)

    @classmethod
    def best(cls) -> "Alignment":
        """Two shorter moves a step: what they guide is nearer to the domain and more varied.

        Of what was tried with a tuned prompt on the embedded models (`bench/studies/choices.py`). Students learned more
        from it there; on test images they learned about as much as from one move (`bench/studies/downstream.py`).
        """
        return cls(moves=2, scale=0.1)

    @classmethod
    def few_steps(cls) -> "Alignment":
        """For priors that sample in about 8 steps: eight shorter moves in each.

        Of those tried on the embedded prior, which is not distilled, these came nearest to what guidance reaches in 30
        steps (`bench/studies/few_steps.py`, `bench/results/few_steps.json`).
        """
        return cls(moves=8, scale=0.15)

    @classmethod
    def paper(cls, scale: float = 0.2) -> "Alignment":
        """DDIS as published (arXiv 2506.15381, eq. 9-12): moves z_t by 0.2 times the gradient, image by image."""
        return cls(
            target="noisy",
            step="raw",
            scale=scale,
            moves=1,
            start=0.0,
            stop=1.0,
            stride=1,
            stride_from=0.0,
            statistics="image",
            domain_weight=1.0,
            class_weight=0.0,
            norm="l2",
            layers="uniform",
            decoder="full",
            decode_px=PRIORS_PX,
            polish=Polish(steps=0),
        )
