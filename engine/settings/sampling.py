"""Settings of the sampler."""

from dataclasses import dataclass

from engine.errors import ConfigError
from engine.prompts import PLAIN, names_class
from engine.settings.fields import check_at_most, check_positive, setting

MOST_TOGETHER = 2**12
"""The largest number of images in a batch."""
TOGETHER = "a batch is held in memory; more images take more batches"
"""Why there is a limit."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The sampling loop with classifier-free guidance."""

    steps: int = setting(30, "number of denoising steps")
    cfg: float = setting(
        4.0,
        "classifier-free guidance scale (paper: 15); 1: off; higher: closer to the prompt, less varied",
    )
    cfg_start: float = setting(
        0.0,
        "fraction of the schedule at which CFG begins; a step without CFG costs one denoiser evaluation, not two",
    )
    cfg_stop: float = setting(1.0, "fraction of the schedule at which CFG ends")
    eta: float = setting(
        1.0,
        "DDIM's eta: how much noise each step renews, from 0 (none; paper) to 1 (as much as DDPM)",
    )
    batch: int = setting(
        28,
        "images that are sampled together; with batch statistics, moments are taken over all of them",
    )
    prompt: str = setting(
        PLAIN,
        "prompt of each image, such as 'a sketch of {a} {class}'; {a} is the article, {class} the class's name, "
        "preceded by its token if it has one",
    )
    negative_prompt: str = setting("", "text for the unconditional branch of CFG")

    def __post_init__(self) -> None:
        if not names_class(self.prompt):
            raise ConfigError(
                f"prompt is {self.prompt!r}, expected a text with {{class}} in it and, if wanted, {{a}}: write 'a "
                "sketch of {a} {class}'."
            )
        check_positive(self, "steps", "batch")
        check_at_most(self, batch=(MOST_TOGETHER, TOGETHER))
        if not 0 <= self.eta <= 1:
            raise ConfigError(
                f"eta is {self.eta}, expected a number from 0 to 1: give 0 for deterministic DDIM, 1 for as "
                "much renewed noise as DDPM has. The length of a guidance step is the alignment's scale."
            )
        if not 1 <= self.cfg < float("inf"):
            raise ConfigError(
                f"cfg is {self.cfg}, expected a finite number >= 1: give 1 for the conditional model alone; the paper "
                "has 15."
            )

        if not 0 <= self.cfg_start < self.cfg_stop <= 1:
            raise ConfigError(
                f"cfg_start is {self.cfg_start} and cfg_stop is {self.cfg_stop}, expected 0 <= cfg_start < cfg_stop <= "
                "1: both are fractions of the schedule. For no CFG at all, set cfg to 1."
            )

    def cfg_at(self, index: int, total: int) -> float:
        """The CFG scale at step `index` of a schedule of `total`; 1 outside of the interval (arXiv 2404.07724)."""
        return self.cfg if self.cfg_start <= index / total < self.cfg_stop else 1.0

    @property
    def evaluations(self) -> int:
        """Denoiser evaluations per image; a step takes two if CFG needs both branches."""
        return sum(1 if self.cfg_at(index, self.steps) == 1 else 2 for index in range(self.steps))

    @classmethod
    def fast(cls) -> "Sampling":
        """CFG in the middle of the schedule alone (arXiv 2404.07724): a fifth fewer evaluations of the denoiser, images
        that are more varied and less often of their class (`bench/studies/choices.py`)."""
        return cls(cfg_start=0.2, cfg_stop=0.8)

    @classmethod
    def paper(cls) -> "Sampling":
        """Sampling as in the paper: 30 deterministic steps with CFG 15."""
        return cls(steps=30, cfg=15.0, eta=0.0)
