"""What class tokens do for the classes that a teacher recognises worst: its and the judge's accuracy, without and with.

python bench/tokens.py [--worst 2] [--images 16] [--seeds 3]

The worst classes are found on plain images of one seed, the accuracies counted on others, so that a class that did
badly by chance does not rise by itself. The tokens are those that ship with the embedded models:
bench/learn_shipped_tokens.py learns them.
"""

import argparse
import json
from dataclasses import asdict
from itertools import product
from pathlib import Path

import torch

from engine.config import Alignment, Sampling
from engine.evaluation.shares import shares
from engine.files import write_whole
from engine.models import Classifier, Prior, load_classifier, load_prior
from engine.models.embedded.judge import load_judge
from engine.outputs.run_record import versions
from engine.pipelines.demo import shipped_tokens
from engine.pipelines.generate import generate
from engine.tokens.table import load_tokens

FINDING_SEED, FIRST_SEED = 200, 300
METHODS = {
    "plain": (False, None),
    "CAT": (True, None),
    "DAG": (False, Alignment()),
    "both": (True, Alignment()),
}
RESULT = Path(__file__).parent / "results" / "tokens.json"
RECOGNISED = RESULT.with_name("worst_classes.json")


def worst_classes(classifier: Classifier, prior: Prior, number: int, images: int) -> list[str]:
    """The labels of the classes that the teacher recognises least in plain images; of equal ones, the first.

    Plain images are the same whoever looks at them: a class's are drawn once for the teachers of all embedded domains,
    and how many each of these recognises is kept beside the results.
    """
    asked = {
        "prior": prior.fingerprint,
        "images": images,
        "seed": FINDING_SEED,
        "sampling": asdict(Sampling()),
    }
    found = json.loads(RECOGNISED.read_text()) if RECOGNISED.exists() else {}
    if found.get("settings") != asked:
        found = {"settings": asked, "recognised": {}}
    for label in classifier.labels:
        if label not in found["recognised"]:
            found["recognised"][label] = recognised(prior, label, images)
            write_whole(RECOGNISED, json.dumps(found, indent=1).encode() + b"\n")
    right = {label: found["recognised"][label][classifier.name] for label in classifier.labels}
    return sorted(sorted(right, key=right.__getitem__)[:number])


def recognised(prior: Prior, label: str, images: int) -> dict[str, int]:
    """How many of a class's plain images each embedded classifier recognises, by the classifier's name."""
    teachers = [load_classifier(f"embedded:{domain}", device=prior.device) for domain in load_judge().domains]
    samples = list(generate(teachers[0], prior, [label], images, alignment=None, seed=FINDING_SEED))
    pixels = torch.stack([sample.image for sample in samples])
    with torch.no_grad():
        return {
            teacher.name: int((teacher.logits(pixels).argmax(1) == teacher.labels.index(label)).sum())
            for teacher in teachers
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--worst", type=int, default=2, help="how many classes of each teacher")
    parser.add_argument("--images", type=int, default=16, help="images of each class and cell")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["plain", "CAT"])
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    prior, judge = load_prior("embedded"), load_judge()
    classifiers = {d: load_classifier(f"embedded:{d}", device=prior.device) for d in judge.domains}
    tables = {d: load_tokens(shipped_tokens(d), prior, classifiers[d]) for d in judge.domains}
    asked = {
        "images_per_class": chosen.images,
        "worst": chosen.worst,
        "prior": prior.fingerprint,
        "tokens": {domain: table.fingerprint for domain, table in tables.items()},
        "sampling": asdict(Sampling()),
        "alignment": asdict(Alignment()),
    }
    result = {"settings": asked, "classes": {}, "cells": {}}
    if chosen.out.exists() and (kept := json.loads(chosen.out.read_text()))["settings"] == asked:
        result = kept
    result["environment"] = {
        "device": str(prior.device), "threads": torch.get_num_threads(), "versions": versions(),
    }  # fmt: skip
    for domain, classifier in classifiers.items():
        if domain not in result["classes"]:
            result["classes"][domain] = worst_classes(classifier, prior, chosen.worst, chosen.images)
    seeds = range(FIRST_SEED, FIRST_SEED + chosen.seeds)
    for seed, domain, method in product(seeds, judge.domains, chosen.methods):
        name = f"{method}/{domain}/{seed}"
        if name in result["cells"]:
            continue
        with_tokens, alignment = METHODS[method]
        samples = generate(
            classifiers[domain],
            prior,
            result["classes"][domain],
            chosen.images,
            tables[domain] if with_tokens else None,
            alignment,
            seed=seed,
        )
        result["cells"][name] = asdict(shares(samples, judge, domain))
        write_whole(chosen.out, json.dumps(result, indent=1).encode() + b"\n")
        print(name, result["cells"][name], flush=True)


if __name__ == "__main__":
    main()
