"""What DAG does to the embedded prior: shares of images by domain, for the plain prior, the paper's mode and ours.

python bench/guidance.py [--images 16] [--seeds 3]

Prompts are neutral ("a dog"), so that the domain can come from the classifier alone. One cell is a method, a domain and
a seed: 7 classes x --images images. Each finished cell is written at once; a run that is cut goes on where it stopped.
"""

import argparse
import json
import time
from dataclasses import asdict
from itertools import product
from pathlib import Path

import torch

from engine.config import Alignment, Sampling
from engine.evaluation.shares import shares
from engine.files import write_whole
from engine.models import load_classifier, load_prior
from engine.models.embedded.judge import load_judge
from engine.outputs.run_record import versions
from engine.pipelines.generate import generate

METHODS = {"plain": None, "paper": Alignment.paper(), "ours": Alignment()}
RESULT = Path(__file__).parent / "results" / "guidance.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=16, help="images of each class and cell")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    prior, judge = load_prior("embedded"), load_judge()
    asked = {
        "images_per_class": chosen.images,
        "prior": prior.fingerprint,
        "sampling": asdict(Sampling()),
        "methods": {name: asdict(method) if method else None for name, method in METHODS.items()},
    }
    result = {"settings": asked, "cells": {}}
    if chosen.out.exists() and (kept := json.loads(chosen.out.read_text()))["settings"] == asked:
        result = kept
    result["environment"] = {
        "device": str(prior.device), "threads": torch.get_num_threads(), "versions": versions(),
    }  # fmt: skip
    for seed, domain, method in product(range(chosen.seeds), judge.domains, METHODS):
        name = f"{method}/{domain}/{seed}"
        if name in result["cells"]:
            continue
        classifier = load_classifier(f"embedded:{domain}", device=prior.device)
        start = time.perf_counter()
        images = generate(classifier, prior, None, chosen.images, alignment=METHODS[method], seed=seed)
        counted = asdict(shares(images, judge, domain))
        result["cells"][name] = {**counted, "seconds": round(time.perf_counter() - start, 2)}
        write_whole(chosen.out, json.dumps(result, indent=1).encode() + b"\n")
        print(name, result["cells"][name], flush=True)


if __name__ == "__main__":
    main()
