"""Throughput of `generate` on the embedded models: images a minute of a whole run, prompts and decoding included.

The baseline is the plain prior at the same number of steps, drawn in turns with each method.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
from methods import METHODS, guided

from engine import generate, load_classifier, load_prior

IMAGES = 28


@pytest.mark.parametrize("classifier", ["embedded:cartoon", "embedded:sketch"])
@pytest.mark.parametrize("steps", [8, 30])
@pytest.mark.parametrize("method", ["ours", "paper"])
def test_images_a_minute(against, benchmark, tiny: bool, method, steps, classifier) -> None:
    images, steps = (2, 2) if tiny else (IMAGES, steps)
    benchmark.group = f"generate, {classifier}, {images} images, {steps} steps"
    prior = load_prior("embedded")
    teacher = load_classifier(classifier, device=prior.device)

    def run(name: str) -> Callable[[], object]:
        alignment, sampling = METHODS[name]
        sampling = replace(sampling, steps=steps, batch=images)
        one = teacher.labels[:1]
        return lambda: list(
            generate(teacher, prior, one, images, sampling=sampling, **guided(alignment))
        )

    taken = against("plain", run("plain"), run(method))
    names = ("images_per_minute", "baseline_images_per_minute")
    benchmark.extra_info.update(
        {name: 60 * images / seconds for name, seconds in zip(names, taken, strict=False)}
    )
