"""Images per minute of `generate` on the embedded prior, and what a guided step takes beside a plain one.

python bench/studies throughput [--images 28] [--steps 8 30] [--quick]

Methods: the plain prior, the paper's guidance, ours. The first run of each warms up and is not counted; of `--repeats`
the median counts. Run it on a quiet machine. --quick: two images, two steps, once, to see that it works.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

from methods import METHODS, draws
from result_files import RESULTS, environment, write_result

from engine.classifiers import Classifier, load_classifier
from engine.memory.profile import profile_step
from engine.priors import Prior, load_prior
from engine.settings import Alignment

RESULT = RESULTS / "throughput.json"


def images_per_minute(
    classifier: Classifier, prior: Prior, method: str, steps: int, images: int, repeats: int
) -> float:
    """Of whole runs of `images` images, prompts and final decoding included."""
    draw = draws(classifier, prior, images, steps, *METHODS[method])
    seconds = []
    for seed in range(1 + repeats):
        began = time.perf_counter()
        draw(seed)[-1].image.sum().item()
        seconds.append(time.perf_counter() - began)
    return round(60 * images / median(seconds[1:]), 2)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=28)
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 30])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args(arguments)
    if chosen.quick:
        chosen.images, chosen.steps, chosen.repeats = 2, [2], 1
    prior = load_prior("embedded")
    classifier = load_classifier("embedded:cartoon", device=prior.device)
    result = {
        "settings": {
            "images": chosen.images,
            "steps": chosen.steps,
            "repeats": chosen.repeats,
            "alignment": asdict(Alignment()),
        },
        "environment": environment(prior.device),
        "images_per_minute": {
            f"{method}/{steps}": images_per_minute(
                classifier, prior, method, steps, chosen.images, chosen.repeats
            )
            for method in METHODS
            for steps in chosen.steps
        },
        "guided_over_plain_step": {
            method: profile_step(
                prior, classifier, chosen.images, alignment, sampling, repeats=chosen.repeats
            ).time_ratio
            for method, (alignment, sampling) in METHODS.items()
            if alignment is not None
        },
    }
    write_result(chosen.out, result)
    print(json.dumps(result, indent=1))
