"""The gradient of an update, whole and in two stages."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.classifiers import Classifier
from engine.guidance.gradient import loss_scale
from engine.guidance.move import Unguided
from engine.memory.count import counting
from engine.priors import Prior, load_prior
from engine.settings import Sampling, TokenLearning
from engine.tokens.augment import random_views
from engine.tokens.gradient import context_gradient, shown_of, token_domain
from engine.tokens.source import ContextGradient
from engine.tokens.trajectories import Trajectories
from engine.types import ImageKey

IMAGES = 3
LAST = replace(TokenLearning.paper(), images_per_epoch=IMAGES)
DRAWN = TokenLearning(images_per_epoch=IMAGES)


def gradients(
    prior: Prior, classifier: Classifier, learning: TokenLearning, cfg: float
) -> Callable[[bool, int], ContextGradient]:
    """(staged, images at once) -> the gradient of one update of the same images."""
    with torch.no_grad():
        context = prior.encode(["a dog", "a red dog", "an elephant"], "")
    keys = [ImageKey(0, number) for number in range(IMAGES)]
    at = [3 if learning.gradient == "last" else 1]
    sampling = Sampling(steps=4, cfg=cfg)
    images = Trajectories(prior, keys, context, sampling, 0, lambda _: Unguided(), at)
    images.prepare(0)
    views = random_views(IMAGES, torch.Generator().manual_seed(2)) if learning.augment else None
    domain = token_domain(classifier) if learning.domain_weight else None
    made = shown_of(images, 0, views)
    targets, scale = torch.tensor([0, 0, 1]), loss_scale(prior.dtype, classifier.dtype)

    def found(staged: bool, at_once: int) -> ContextGradient:
        return context_gradient(
            classifier, made, context, targets, learning, domain, at_once, scale, staged
        )

    return found


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("cfg", [1.0, 4.0])
@pytest.mark.parametrize("learning", [LAST, DRAWN], ids=["last", "drawn"])
@pytest.mark.parametrize("at_once", [3, 2])
def test_two_stages_give_the_same_gradient(
    tiny_prior: Prior, classifier: Classifier, learning: TokenLearning, cfg: float, at_once: int
) -> None:
    """In whole batches and in parts, with L_BN of the whole batch and without."""
    found = gradients(tiny_prior, classifier, learning, cfg)
    whole, staged = (found(way, at_once) for way in (False, True))
    assert whole.by_context.norm() > 0
    assert relative(staged.by_context, whole.by_context) < 1e-6
    torch.testing.assert_close(staged.logits, whole.logits, rtol=1e-5, atol=1e-6)
    assert (staged.scale, len(staged.logits)) == (1.0, IMAGES)


def test_two_stages_never_hold_both_graphs(tiny_prior: Prior, classifier: Classifier) -> None:
    found = gradients(tiny_prior, classifier, LAST, 4.0)
    peaks = []
    for staged in (False, True):
        with counting() as count:
            found(staged, IMAGES)
        peaks.append(count.peak)
    assert peaks[1] < 0.8 * peaks[0]


def test_two_stages_pass_half_precision_scaled(tiny_prior: Prior, classifier: Classifier) -> None:
    half = load_prior(tiny_prior.pipe, dtype=torch.float16)
    exact = gradients(tiny_prior, classifier, LAST, 4.0)(False, IMAGES)
    staged = gradients(half, classifier, LAST, 4.0)(True, IMAGES)
    assert staged.scale > 1
    along = torch.nn.functional.cosine_similarity(
        staged.by_context.flatten(), exact.by_context.flatten(), 0
    )
    assert along > 0.98
