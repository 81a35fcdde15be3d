"""The length of a guidance step, found from what a user without data has: the classifier alone.

Too short a step leaves the images outside the training domain; too long a one leaves them where the denoiser cannot
repair them, full of patterns that only this network reads as its domain. Both show in finished images seen through
views that guidance did not optimise (flipped, shifted, zoomed): the first in their L_BN, the second in its
cross-entropy. The scale with the least sum of both is taken.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

from engine.errors import ConfigError, check_type
from engine.events import SILENT, Events
from engine.methods.drawing import IMAGES, Drawing
from engine.runners.asking import AnyClassifier, AnyPrior, AnyTokens, asked
from engine.runners.trial import Trial, observe
from engine.settings import Alignment, Sampling
from engine.settings.methods import DDIS

SCALES = (0.1, 0.2, 0.4, 0.6, 0.8)
TUNING_SEED = 1_000_003
"""Added to the run's seed: the images that chose a scale are not those that it then makes."""


@dataclass(frozen=True, kw_only=True)
class ScaleTrial(Trial):
    """A trial of one length of step."""

    scale: float


@dataclass(frozen=True)
class Tuned:
    """The trials, ordered by scale, and the settings with the best scale."""

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
    classifier: AnyClassifier,
    prior: AnyPrior = "embedded",
    classes: Sequence[str] | None = None,
    *,
    tokens: AnyTokens | None = None,
    alignment: Alignment = Alignment(),
    sampling: Sampling = Sampling(),
    scales: Sequence[float] = SCALES,
    images_per_class: int = 4,
    seed: int = 0,
    events: Events = SILENT,
) -> Tuned:
    """Find the guidance scale with the lowest `Trial.score` by drawing a few images of each class at every scale.

    No real images are needed. The search draws len(scales) * images_per_class * len(classes) images.

    Args:
        classifier: as for `generate`.
        prior: as for `generate`.
        classes: a subset of the classifier's labels; None for all of them.
        tokens: learned class tokens or their file.
        alignment: settings of guidance; their own scale is ignored.
        sampling: settings of the sampler.
        scales: two or more candidates, each above 0.
        images_per_class: number of images of each class at each scale.
        seed: random seed of the images, shared by all scales.
        events: receives progress reports.

    Raises:
        ConfigError: there are fewer than two scales, or one is not positive.
        EngineError: any error of `generate`.
    """
    check_type("events", events, Events, "Events, such as Events(print)")
    scales = sorted(set(scales))
    if len(scales) < 2 or scales[0] <= 0:
        raise ConfigError(
            f"tune got the scales {', '.join(map(str, scales)) or 'none'}, expected at least two different ones above "
            "0: there is nothing to choose from otherwise. Name more."
        )
    wanted = asked(
        classifier,
        prior,
        classes,
        images_per_class,
        seed=seed + TUNING_SEED,
        tokens=tokens,
        alignment=replace(alignment, scale=scales[0]),
        sampling=sampling,
    )
    drawing = cast(Drawing, wanted.prepare())
    trials = []
    with events.task(IMAGES, len(scales) * images_per_class * len(drawing.classes)) as task:
        for scale in scales:
            trials.append(try_scale(with_alignment(drawing, scale=scale), events))
            task.progress(0, f"scale {scale:g}: score {trials[-1].score:.2f}")
    best = min(trials, key=lambda trial: trial.score)
    return Tuned(replace(alignment, scale=best.scale), tuple(trials))


def with_alignment(drawing: Drawing, **changes: Any) -> Drawing:
    """The same models, guided otherwise. What guidance sees through stays, so `changes` must not concern it."""
    assert drawing.alignment is not None
    aligned = replace(drawing.alignment, **changes)
    return drawing.asking(method=replace(cast(DDIS, drawing.request.method), alignment=aligned))


def try_scale(drawing: Drawing, events: Events = SILENT) -> ScaleTrial:
    """Measure the images of a drawing's own scale."""
    assert drawing.alignment is not None
    return ScaleTrial(scale=drawing.alignment.scale, **asdict(observe(drawing, events)))
