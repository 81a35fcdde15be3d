"""Throughput of `generate` on the embedded models: images a minute of a whole run, prompts and decoding included.

The baseline is the plain prior at the same number of steps, drawn in turns with each method.
"""

import pytest
from methods import METHODS, draws

from engine import load_classifier, load_prior

IMAGES = 28


@pytest.mark.parametrize("domain", ["cartoon", "sketch"])
@pytest.mark.parametrize("steps", [8, 30])
@pytest.mark.parametrize("method", ["ours", "paper"])
def test_images_a_minute(against, benchmark, tiny: bool, method: str, steps: int, domain: str):
    images, steps = (2, 2) if tiny else (IMAGES, steps)
    benchmark.group = f"generate, embedded:{domain}, {images} images, {steps} steps"
    prior = load_prior("embedded")
    classifier = load_classifier(f"embedded:{domain}", device=prior.device)
    plain, guided = (
        draws(classifier, prior, images, steps, *METHODS[name]) for name in ("plain", method)
    )
    taken = against("plain", plain, guided)
    names = ("images_per_minute", "baseline_images_per_minute")
    benchmark.extra_info.update(
        {name: 60 * images / seconds for name, seconds in zip(names, taken, strict=False)}
    )
