"""The stages of a run: from prompts to their context, from noise to finished latents, from these to images."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from engine.classifiers.base import Classifier
from engine.guidance.domain import judged
from engine.guidance.move import Guidance
from engine.priors import Context, Denoise, Prior
from engine.sampling.loop import OnStep, sample
from engine.sampling.noise import ImageNoise
from engine.settings import Sampling

Encode = Callable[[Sequence[str]], Context]
InParts = Callable[[Encode, Sequence[str]], Sequence[Context]]
"""Encodes prompts, as many at once as there is memory for."""


def encoded(
    prior: Prior,
    prompts: Sequence[str],
    sampling: Sampling,
    in_parts: InParts = lambda encode, prompts: [encode(prompts)],
) -> Context:
    """The context of N prompts, with the negative prompt where CFG asks for it. Equal prompts are encoded once."""
    negative = None if sampling.cfg == 1 else sampling.negative_prompt
    different = list(dict.fromkeys(prompts))
    context = Context.join(in_parts(partial(prior.encode, negative=negative), different))
    return context[[different.index(prompt) for prompt in prompts]]


def drawn(
    prior: Prior,
    denoise: Denoise,
    noise: ImageNoise,
    sampling: Sampling,
    guidance: Guidance,
    on_step: OnStep | None = None,
) -> Tensor:
    """Finished latents (N, ...) of a group of images.

    Args:
        prior: Whose schedule and noise level it begins with.
        denoise: The prior with the group's prompts bound.
        noise: Of the images.
        sampling: The settings.
        guidance: Of the group.
        on_step: Called after each step.
    """
    z = prior.noise(noise.generators, sampling.steps)
    return sample(
        z,
        guidance.before(denoise),
        prior.schedule(sampling.steps),
        guidance.move,
        on_step,
        sampling.eta,
        noise,
    )


def finished(prior: Prior, classifier: Classifier, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images (N, 3, H, W) in [0, 1] of latents z (N, ...), and their logits and L_BN as `judged` gives them."""
    images = prior.decode(z)
    return images, *judged(classifier, images)
