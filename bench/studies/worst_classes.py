"""Which classes a teacher recognises worst in the plain prior's images: those for which a token matters most.

python bench/studies worst_classes

They are found on images of a seed of their own, so that a class that did badly by chance does not rise by itself where
something else is counted on others.
"""

import argparse
from dataclasses import asdict

import torch
from result_files import RESULTS, read_result, write_result

from engine.classifiers import Classifier, load_classifier
from engine.embedded.judge import load_judge
from engine.priors import Prior, load_prior
from engine.runners.generate import generate
from engine.settings import Sampling
from studies.rows import DTYPE

LASTS = "minutes"
FINDING_SEED = 200
RECOGNISED = RESULTS / "worst_classes.json"


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
    found = read_result(RECOGNISED)
    if found.get("settings") != asked:
        found = {"settings": asked, "recognised": {}}
    for label in classifier.labels:
        if label not in found["recognised"]:
            found["recognised"][label] = recognised(prior, label, images)
            write_result(RECOGNISED, found)
    right = {label: found["recognised"][label][classifier.name] for label in classifier.labels}
    return sorted(sorted(right, key=right.__getitem__)[:number])


def recognised(prior: Prior, label: str, images: int) -> dict[str, int]:
    """How many of a class's plain images each embedded classifier recognises, by the classifier's name."""
    teachers = [
        load_classifier(f"embedded:{domain}", device=prior.device, dtype=DTYPE)
        for domain in load_judge().domains
    ]
    samples = list(generate(teachers[0], prior, [label], images, method="plain", seed=FINDING_SEED))
    pixels = torch.stack([sample.image for sample in samples]).to(prior.device)
    with torch.no_grad():
        return {
            teacher.name: int(
                (teacher.logits(pixels).argmax(1) == teacher.labels.index(label)).sum()
            )
            for teacher in teachers
        }


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    prior = load_prior("embedded", dtype=DTYPE)
    for domain in load_judge().domains:
        print(
            domain,
            *worst_classes(load_classifier(f"embedded:{domain}"), prior, number=2, images=16),
        )
