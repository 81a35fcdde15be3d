"""What DAG does to the embedded prior: shares of images by domain, for the plain prior, the paper's mode and ours.

python bench/guidance.py [--images 16] [--seeds 3] [--methods plain ours ...]

Prompts are neutral ("a dog"), so that the domain can come from the classifier alone. One cell is a method, a domain and
a seed: 7 classes x --images images. Each finished cell is written at once; a run that is cut goes on where it stopped.
"""

import argparse
import json
import time
from dataclasses import asdict, replace
from functools import lru_cache
from itertools import product
from pathlib import Path

import torch

from engine.config import Alignment, Sampling
from engine.evaluation.shares import shares
from engine.files import write_whole
from engine.guidance.losses import judged
from engine.models import Classifier, Prior, load_classifier, load_prior
from engine.models.embedded.judge import load_judge
from engine.outputs.run_record import versions
from engine.pipelines.generate import generate
from engine.types import Sample

METHODS = {
    "plain": (None, Sampling()),
    "paper": (Alignment.paper(), Sampling.paper()),
    "L_BN alone": (Alignment(class_weight=0.0), Sampling()),
    "ours": (Alignment(), Sampling()),
}
FIRST_SEED = 100
"""No setting was chosen on images of these seeds."""
RESULT = Path(__file__).parent / "results" / "guidance.json"


@lru_cache(maxsize=1)
def plain_images(prior: Prior, number: int, seed: int) -> list[Sample]:
    """The plain prior's images: the same whatever the classifier, so they are drawn once."""
    return list(generate("embedded:photo", prior, None, number, alignment=None, seed=seed))


def seen_by(classifier: Classifier, samples: list[Sample]) -> list[Sample]:
    """Samples with another teacher's logits and L_BN."""
    logits, distances = judged(classifier, torch.stack([sample.image for sample in samples]))
    return [
        replace(sample, logits=logits[row], l_bn=distances[row].item()) for row, sample in enumerate(samples)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=16, help="images of each class and cell")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    prior, judge = load_prior("embedded"), load_judge()
    asked = {
        "images_per_class": chosen.images,
        "prior": prior.fingerprint,
        "methods": {
            name: {"alignment": alignment and asdict(alignment), "sampling": asdict(sampling)}
            for name, (alignment, sampling) in METHODS.items()
        },
    }
    result = {"settings": asked, "cells": {}}
    if chosen.out.exists() and (kept := json.loads(chosen.out.read_text()))["settings"] == asked:
        result = kept
    result["environment"] = {
        "device": str(prior.device), "threads": torch.get_num_threads(), "versions": versions(),
    }  # fmt: skip
    seeds = range(FIRST_SEED, FIRST_SEED + chosen.seeds)
    for seed, method, domain in product(seeds, chosen.methods, judge.domains):
        name = f"{method}/{domain}/{seed}"
        if name in result["cells"]:
            continue
        classifier = load_classifier(f"embedded:{domain}", device=prior.device)
        alignment, sampling = METHODS[method]
        start = time.perf_counter()
        if alignment is None:
            images = seen_by(classifier, plain_images(prior, chosen.images, seed))
        else:
            images = generate(
                classifier, prior, None, chosen.images, alignment=alignment, sampling=sampling, seed=seed
            )
        counted = asdict(shares(images, judge, domain))
        result["cells"][name] = {**counted, "seconds": round(time.perf_counter() - start, 2)}
        write_whole(chosen.out, json.dumps(result, indent=1).encode() + b"\n")
        print(name, result["cells"][name], flush=True)


if __name__ == "__main__":
    main()
