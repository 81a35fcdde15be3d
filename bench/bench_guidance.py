"""Overhead of guidance (DAG) on the embedded models: the same run with it and without, and one step of each.

Only guidance differs: the baseline is the plain prior with the same sampling, drawn in turns. `step` in extra_info is
what `engine.profile` says of a single step: its time and its floating point operations over a plain step's, and where
its milliseconds go.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
from methods import METHODS, guided

from engine import generate, load_classifier, load_prior, profile

STEPS = 8


@pytest.mark.parametrize("classifier", ["embedded:cartoon", "embedded:sketch"])
@pytest.mark.parametrize("images", [1, 28])
@pytest.mark.parametrize("method", ["ours", "paper"])
def test_overhead(against, benchmark, tiny: bool, method, images, classifier) -> None:
    images, steps = (1, 2) if tiny else (images, STEPS)
    benchmark.group = f"guidance, {classifier}, {images} images, {steps} steps"
    prior = load_prior("embedded")
    teacher = load_classifier(classifier, device=prior.device)
    alignment, sampling = METHODS[method]
    sampling = replace(sampling, steps=steps, batch=images)

    def run(how: dict[str, object]) -> Callable[[], object]:
        one = teacher.labels[:1]
        return lambda: list(generate(teacher, prior, one, images, sampling=sampling, **how))

    against("plain", run(guided(None)), run(guided(alignment)))
    found = profile(prior, teacher, images, alignment, sampling, repeats=1 if tiny else 5)
    benchmark.extra_info["step"] = found.to_json()
