"""Images per minute of `generate` on the embedded prior, and what a guided step takes beside a plain one.

python bench/throughput.py [--images 28] [--steps 8 30] [--quick]

Methods: the plain prior, the paper's guidance, ours. The first run of each warms up and is not counted; of `--repeats`
the median counts. Run it on a quiet machine. --quick: two images, two steps, once, to see that it works.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

import torch
from guided import guided

from engine.classifiers import Classifier, load_classifier
from engine.datasets.run_record import versions
from engine.files import write_whole
from engine.memory.profile import profile_step
from engine.priors import Prior, load_prior
from engine.runners.generate import generate
from engine.settings import Alignment, Sampling

METHODS = {
    "plain": (None, Sampling()),
    "paper": (Alignment.paper(), Sampling.paper()),
    "ours": (Alignment(), Sampling()),
}
RESULT = Path(__file__).parent / "results" / "throughput.json"


def images_per_minute(
    classifier: Classifier, prior: Prior, method: str, steps: int, images: int, repeats: int
) -> float:
    """Of whole runs of `images` images, prompts and final decoding included."""
    alignment, sampling = METHODS[method]
    sampling = replace(sampling, steps=steps, batch=images)
    seconds = []
    for seed in range(1 + repeats):
        began = time.perf_counter()
        made = list(
            generate(
                classifier,
                prior,
                classifier.labels[:1],
                images,
                **guided(alignment),
                sampling=sampling,
                seed=seed,
            )
        )
        made[-1].image.sum().item()
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
        "images": chosen.images,
        "alignment": asdict(Alignment()),
        "environment": {
            "device": str(prior.device),
            "threads": torch.get_num_threads(),
            "versions": versions(),
        },
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
    write_whole(chosen.out, json.dumps(result, indent=1).encode() + b"\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
