"""How much computing an image takes, counted and not timed."""

from dataclasses import fields, replace

import torch

from engine.classifiers.base import Classifier
from engine.memory.count import counting
from engine.methods.inversion import InversionMethod
from engine.methods.registry import prepare_of
from engine.settings.inversion import ITERATIONS, InversionSettings

IMAGES = 2


def flops_per_image(
    settings: InversionSettings, classifier: Classifier, student: Classifier | None = None
) -> int:
    """FLOPs of matrix products and convolutions in all networks, forward and backward, for one image.

    The work of one iteration is the difference between a run of two and a run of one, on two images; the rest is
    multiplication.
    """
    method = prepare_of(settings)
    assert isinstance(method, InversionMethod)

    def counted(**iterations: int) -> int:
        rng = torch.Generator().manual_seed(0)
        with counting() as count:
            method.synthesise(
                classifier, [0] * IMAGES, rng, replace(settings, **iterations), student
            )
        return count.flops

    used = {entry.name for entry in fields(settings)} & set(ITERATIONS)
    once = {name: 1 for name in used if getattr(settings, name)}
    # The first pass of a network is watched (`guidance.pairing`), and costs another.
    counted(**once)
    base = counted(**once)
    return (
        sum(getattr(settings, name) * (counted(**once | {name: 2}) - base) for name in once)
        // IMAGES
    )
