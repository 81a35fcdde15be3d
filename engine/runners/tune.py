"""The length of a guidance step, found from what a user without data has: the teacher alone.

Too short a step leaves the images outside the training domain; too long a one leaves them where the denoiser cannot
repair them, full of patterns that only this network reads as its domain. Both show in finished images seen through
views that guidance did not optimise (flipped, shifted, zoomed): the first in their L_BN, the second in the teacher's
cross-entropy. The scale with the least sum of both is taken.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from engine.classifiers import Classifier
from engine.errors import ConfigError
from engine.memory.budget import AUTO
from engine.models import Prior
from engine.runners.job import Job, prepare
from engine.runners.trial import Trial, observe
from engine.sampling.ddim import OnStep
from engine.settings import Alignment, Sampling
from engine.tokens.table import TokenTable

SCALES = (0.1, 0.2, 0.4, 0.6, 0.8)
TUNING_SEED = 1_000_003
"""Added to the run's seed: the images that chose a scale are not those that it then makes."""


@dataclass(frozen=True, kw_only=True)
class ScaleTrial(Trial):
    """A trial of one length of step."""

    scale: float


@dataclass(frozen=True)
class Tuned:
    """The trials in the order of their scales, and the settings with the best one."""

    alignment: Alignment
    trials: tuple[ScaleTrial, ...]

    def to_json(self) -> dict[str, Any]:
        trials = [asdict(trial) | {"score": trial.score} for trial in self.trials]
        return {
            "scale": self.alignment.scale,
            "alignment": asdict(self.alignment),
            "trials": trials,
        }


def tune(
    classifier: str | Path | nn.Module | Classifier,
    prior: str | Path | Prior = "embedded",
    classes: Sequence[str] | None = None,
    tokens: TokenTable | str | Path | None = None,
    alignment: Alignment = Alignment(),
    sampling: Sampling = Sampling(),
    scales: Sequence[float] = SCALES,
    images_per_class: int = 4,
    seed: int = 0,
    on_trial: Callable[[ScaleTrial], object] = lambda _: None,
    on_step: OnStep | None = None,
) -> Tuned:
    """Try each scale of `alignment` on a few images of each class and keep the one of the least `Trial.score`.

    Takes what `generate` takes; no real image is read. Costs len(scales) x images_per_class x classes images. Raises
    ConfigError for fewer than two scales, or one that is not above 0, and what `generate` raises.
    """
    scales = sorted(set(scales))
    if len(scales) < 2 or scales[0] <= 0:
        raise ConfigError(
            f"tune got the scales {', '.join(map(str, scales)) or 'none'}, expected at least two different ones above "
            "0: there is nothing to choose from otherwise."
        )
    job = prepare(
        classifier,
        prior,
        classes,
        images_per_class,
        tokens,
        replace(alignment, scale=scales[0]),
        sampling,
        seed + TUNING_SEED,
        AUTO,
    )
    trials = []
    for scale in scales:
        trials.append(try_scale(replace(job, alignment=replace(alignment, scale=scale)), on_step))
        on_trial(trials[-1])
    best = min(trials, key=lambda trial: trial.score)
    return Tuned(replace(alignment, scale=best.scale), tuple(trials))


def try_scale(job: Job, on_step: OnStep | None = None) -> ScaleTrial:
    """Measure the images of a job's own scale."""
    assert job.alignment is not None
    return ScaleTrial(scale=job.alignment.scale, **asdict(observe(job, on_step)))
