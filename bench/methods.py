"""The methods that are compared again and again, and the arguments that ask `generate` for them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from engine import Alignment, Classifier, Prior, Sample, Sampling, generate

METHODS: dict[str, tuple[Alignment | None, Sampling]] = {
    "plain": (None, Sampling()),
    "paper": (Alignment.paper(), Sampling.paper()),
    "ours": (Alignment(), Sampling()),
}
"""Guidance, None for the prior alone, and the sampling that goes with it."""


def guided(alignment: Alignment | None) -> dict[str, Any]:
    """The arguments of `generate` for some guidance, or for the prior alone where it is None."""
    return {"method": "plain"} if alignment is None else {"alignment": alignment}


def draws(
    classifier: Classifier,
    prior: Prior,
    images: int,
    steps: int,
    alignment: Alignment | None,
    sampling: Sampling,
    **others: Any,
) -> Callable[..., list[Sample]]:
    """A function that makes `images` images of the classifier's first class, all at once; `seed` is its one option.

    others: arguments of `generate` besides.
    """
    sampling = replace(sampling, steps=steps, batch=images)
    first = classifier.labels[:1]

    def draw(seed: int = 0) -> list[Sample]:
        how = guided(alignment) | others
        return list(generate(classifier, prior, first, images, sampling=sampling, seed=seed, **how))

    return draw
