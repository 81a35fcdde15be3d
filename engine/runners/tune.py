"""The prompt and the length of a guidance step, found from what a user without data has: the classifier alone.

A prompt that names the style of the training images brings a prior nearer to them than guidance can. Of some styles,
the one is taken whose plain images are the nearest (`Trial.distance`).

Too short a step leaves the images outside the training domain; too long a one leaves them where the denoiser cannot
repair them, full of patterns that only this network reads as its domain. Both show in finished images seen through
views that guidance did not optimise (flipped, shifted, zoomed): the first in their distance, the second in its
cross-entropy. The scale with the least sum of both is taken.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar, cast

from engine.errors import ConfigError, check_type
from engine.events import SILENT, Events
from engine.methods.drawing import IMAGES, Drawing
from engine.methods.words import check_length
from engine.prompts import PLAIN, names_class
from engine.runners.asking import AnyClassifier, AnyPrior, AnyTokens, asked
from engine.runners.start_word import looked_at, without_guidance
from engine.runners.trial import Trial, observe
from engine.settings import Alignment, Sampling
from engine.settings.methods import DDIS

PROMPTS = (
    PLAIN,
    "a photo of {a} {class}",
    "a painting of {a} {class}",
    "a cartoon of {a} {class}",
    "a sketch of {a} {class}",
)
"""Of styles that any prior knows."""
SCALES = (0.1, 0.15, 0.2, 0.3, 0.4)
TUNING_SEED = 1_000_003
"""Added to the run's seed: the images that chose a scale are not those that it then makes."""


AnyTrial = TypeVar("AnyTrial", bound=Trial)


@dataclass(frozen=True, kw_only=True)
class ScaleTrial(Trial):
    """A trial of one length of step."""

    scale: float


@dataclass(frozen=True, kw_only=True)
class PromptTrial(Trial):
    """A trial of one prompt, without guidance."""

    prompt: str

    @property
    def score(self) -> float:
        return self.distance


@dataclass(frozen=True)
class Tuned:
    """The settings with the best prompt and scale, the trials of scales, ordered, and those of prompts, if any."""

    alignment: Alignment
    sampling: Sampling
    trials: tuple[ScaleTrial, ...]
    prompts: tuple[PromptTrial, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "scale": self.alignment.scale,
            "prompt": self.sampling.prompt,
            "alignment": asdict(self.alignment),
            "trials": [_with_score(trial) for trial in self.trials],
            "prompts": [_with_score(trial) for trial in self.prompts],
        }


def _with_score(trial: Trial) -> dict[str, Any]:
    return asdict(trial) | {"score": trial.score}


def tune(
    classifier: AnyClassifier,
    prior: AnyPrior = "embedded",
    classes: Sequence[str] | None = None,
    *,
    tokens: AnyTokens | None = None,
    alignment: Alignment = Alignment(),
    sampling: Sampling = Sampling(),
    scales: Sequence[float] = SCALES,
    prompts: Sequence[str] | None = None,
    images_per_class: int = 4,
    seed: int = 0,
    events: Events = SILENT,
) -> Tuned:
    """Find the prompt and then the guidance scale with the lowest score, by drawing a few images of each class.

    No real images are needed. The search draws images_per_class images of each class (of 16 at most, evenly spread) for
    every prompt, without guidance, and of each class for every scale, guided, with the prompt that was found. The
    scores are those of `PromptTrial` and of `Trial`.

    Args:
        classifier: as for `generate`.
        prior: as for `generate`.
        classes: a subset of the classifier's labels; None for all of them.
        tokens: learned class tokens or their file.
        alignment: settings of guidance; scales are tried in place of their own.
        sampling: settings of the sampler.
        scales: two or more candidates, each above 0.
        prompts: candidates in the form of `Sampling.prompt`; one is taken as it is. By default PROMPTS, or the prompt
            of `sampling` where it is not the default.
        images_per_class: number of images of each class in each trial.
        seed: random seed of the images, shared by all trials.
        events: receives progress reports.

    Raises:
        ConfigError: there are fewer than two scales, or one is not positive; a prompt has no class in it, or there is
            none.
        EngineError: any error of `generate`.
    """
    check_type("events", events, Events, "Events, such as Events(print)")
    scales = sorted(set(scales))
    if len(scales) < 2 or scales[0] <= 0:
        raise ConfigError(
            f"tune got the scales {', '.join(map(str, scales)) or 'none'}, expected at least two different ones above "
            "0: there is nothing to choose from otherwise. Name more."
        )
    if prompts is None:
        prompts = PROMPTS if sampling.prompt == PLAIN else (sampling.prompt,)
    if not prompts:
        raise ConfigError(
            "tune got no prompts, expected at least one, such as 'a sketch of {a} {class}': name some, or leave them "
            "out."
        )
    if wrong := [prompt for prompt in prompts if not names_class(prompt)]:
        raise ConfigError(
            f"tune got the prompt {wrong[0]!r}, expected texts with {{class}} in them and, if wanted, {{a}}: write 'a "
            "sketch of {a} {class}'."
        )
    candidates = [replace(sampling, prompt=prompt) for prompt in dict.fromkeys(prompts)]
    wanted = asked(
        classifier,
        prior,
        classes,
        images_per_class,
        seed=seed + TUNING_SEED,
        tokens=tokens,
        alignment=alignment,
        sampling=candidates[0],
    )
    drawing = cast(Drawing, wanted.prepare())
    labels = [drawing.classifier.labels[number] for number in drawing.classes]
    for other in candidates[1:]:
        check_length(drawing.prior, labels, other.prompt)
    tried = candidates if len(candidates) > 1 else []
    of_prompts: list[PromptTrial] = []
    of_scales: list[ScaleTrial] = []
    few = len(looked_at(drawing.classes))
    total = (len(tried) * few + len(scales) * len(drawing.classes)) * images_per_class
    with events.task(IMAGES, total) as task:
        for candidate in tried:
            of_prompts.append(try_prompt(with_prompt(drawing, candidate.prompt), events))
            task.progress(0, f"{candidate.prompt!r}: score {of_prompts[-1].score:.2f}")
        if of_prompts:
            drawing = with_prompt(drawing, least(of_prompts).prompt)
        for scale in scales:
            of_scales.append(try_scale(with_alignment(drawing, scale=scale), events))
            task.progress(0, f"scale {scale:g}: score {of_scales[-1].score:.2f}")
    best = replace(alignment, scale=least(of_scales).scale)
    return Tuned(best, drawing.sampling, tuple(of_scales), tuple(of_prompts))


def least(trials: Sequence[AnyTrial]) -> AnyTrial:
    """The trial of the least score."""
    return min(trials, key=lambda trial: trial.score)


def with_prompt(drawing: Drawing, prompt: str) -> Drawing:
    """The same models and guidance, drawing from another prompt."""
    method = cast(DDIS, drawing.request.method)
    sampling = replace(method.sampling, prompt=prompt)
    return drawing.asking(method=replace(method, sampling=sampling))


def try_prompt(drawing: Drawing, events: Events = SILENT) -> PromptTrial:
    """Measure plain images of a drawing's own prompt, of a few of its classes: what they are to show is a style."""
    found = observe(without_guidance(drawing), events)
    return PromptTrial(prompt=drawing.sampling.prompt, **asdict(found))


def with_alignment(drawing: Drawing, **changes: Any) -> Drawing:
    """The same models, guided otherwise. What guidance sees through stays, so `changes` must not concern it."""
    assert drawing.alignment is not None
    aligned = replace(drawing.alignment, **changes)
    return drawing.asking(method=replace(cast(DDIS, drawing.request.method), alignment=aligned))


def try_scale(drawing: Drawing, events: Events = SILENT) -> ScaleTrial:
    """Measure the images of a drawing's own scale."""
    assert drawing.alignment is not None
    return ScaleTrial(scale=drawing.alignment.scale, **asdict(observe(drawing, events)))
