"""The length of a guidance step, found from what a user without data has: the teacher alone.

Too short a step leaves the images outside the training domain; too long a one leaves them where the denoiser cannot
repair them, full of patterns that only this network reads as its domain. Both show in finished images seen through
views that guidance did not optimise (flipped, shifted, zoomed): the first in their L_BN, the second in the teacher's
cross-entropy. The scale with the least sum of both is taken.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from math import log
from pathlib import Path
from typing import Any

import torch
from ddis_kernels import merge_moments
from torch import Generator, nn
from torch.nn.functional import cross_entropy

from engine.config import Alignment, Sampling
from engine.errors import ConfigError
from engine.guidance.losses import alignment_loss, layer_weights
from engine.guidance.moments import recording_moments
from engine.memory.budget import AUTO
from engine.models import Classifier, Prior
from engine.pipelines.generate import sample_group
from engine.pipelines.job import Job, prepare
from engine.sampling.ddim import OnStep
from engine.tokens.augment import augmented
from engine.tokens.table import TokenTable
from engine.types import Moments

SCALES = (0.1, 0.2, 0.4, 0.6, 0.8)
VIEWS = 4
TUNING_SEED = 1_000_003
"""Added to the run's seed: the images that chose a scale are not those that it then makes."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one scale's images look like to the teacher, over VIEWS random views of each.

    l_bn: of all views together, each layer relative to its own stored statistics, squared (`Alignment.layers`,
    `norm`). cross_entropy: mean of the views, by the images' own classes. recognised, agreement: shares of the images
    whose own class the teacher names in the image, and in each of its views.
    """

    scale: float
    images: int
    l_bn: float
    cross_entropy: float
    recognised: float
    agreement: float

    @property
    def score(self) -> float:
        """log L_BN + cross-entropy: a nat of either counts the same, whatever the classifier's units."""
        return log(self.l_bn) + self.cross_entropy


@dataclass(frozen=True)
class Tuned:
    """The trials in the order of their scales, and the settings with the best one."""

    alignment: Alignment
    trials: tuple[Trial, ...]

    def to_json(self) -> dict[str, Any]:
        trials = [asdict(trial) | {"score": trial.score} for trial in self.trials]
        return {"scale": self.alignment.scale, "alignment": asdict(self.alignment), "trials": trials}


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
    on_trial: Callable[[Trial], object] = lambda _: None,
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
        classifier, prior, classes, images_per_class, tokens, replace(alignment, scale=scales[0]), sampling,
        seed + TUNING_SEED, AUTO,
    )  # fmt: skip
    trials = []
    for scale in scales:
        trials.append(try_scale(replace(job, alignment=replace(alignment, scale=scale)), on_step))
        on_trial(trials[-1])
    best = min(trials, key=lambda trial: trial.score)
    return Tuned(replace(alignment, scale=best.scale), tuple(trials))


@torch.no_grad()
def try_scale(job: Job, on_step: OnStep | None = None) -> Trial:
    """Make a job's images, a group in memory at a time, and measure them."""
    assert job.alignment is not None
    classifier = job.classifier
    rng = Generator().manual_seed(0)
    moments: list[Moments] = []
    seen, sums = 0, torch.zeros(3)
    for group in job.groups():
        samples = sample_group(job, group, on_step)
        classes = torch.tensor([sample.key.class_index for sample in samples])
        images = torch.stack([sample.image for sample in samples]).to(classifier.device)
        in_views = []
        for _ in range(VIEWS):
            with recording_moments(classifier.norm_layers) as now:
                in_views.append(classifier.logits(augmented(images, rng)).cpu())
                moments = [
                    one if seen == 0 else merge_moments(before, one, seen, len(images))
                    for before, one in zip(moments or now, now, strict=True)
                ]
            seen += len(images)
        logits = torch.stack(in_views)
        right = logits.argmax(2) == classes
        own = torch.stack([sample.logits for sample in samples]).argmax(1) == classes
        loss = cross_entropy(logits.flatten(0, 1), classes.repeat(VIEWS), reduction="sum") / VIEWS
        sums += torch.stack([loss, own.sum(), right.all(0).sum()])
    cross, recognised, agreement = (sums * VIEWS / seen).tolist()
    weights = layer_weights(classifier.stored, "relative")
    return Trial(
        scale=job.alignment.scale,
        images=seen // VIEWS,
        l_bn=alignment_loss(moments, classifier.stored, weights, "l2_squared").item(),
        cross_entropy=cross,
        recognised=recognised,
        agreement=agreement,
    )
