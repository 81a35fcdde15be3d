"""Overhead of guidance (DAG) on the embedded models: the same run with it and without, and one step of each.

Only guidance differs: the baseline is the plain prior with the same sampling, drawn in turns. `step` in extra_info is
what `engine.profile` says of a single step: its time and its floating point operations over a plain step's, and where
its milliseconds go.
"""

import pytest
from methods import METHODS, draws

from engine import load_classifier, load_prior, profile

STEPS = 8


@pytest.mark.parametrize("domain", ["cartoon", "sketch"])
@pytest.mark.parametrize("images", [1, 28])
@pytest.mark.parametrize("method", ["ours", "paper"])
def test_overhead(against, benchmark, tiny: bool, method: str, images: int, domain: str):
    images, steps = (1, 2) if tiny else (images, STEPS)
    benchmark.group = f"guidance, embedded:{domain}, {images} images, {steps} steps"
    prior = load_prior("embedded")
    classifier = load_classifier(f"embedded:{domain}", device=prior.device)
    alignment, sampling = METHODS[method]
    plain, guided = (
        draws(classifier, prior, images, steps, how, sampling) for how in (None, alignment)
    )
    against("plain", plain, guided)
    found = profile(prior, classifier, images, alignment, sampling, repeats=1 if tiny else 5)
    benchmark.extra_info["step"] = found.to_json()
