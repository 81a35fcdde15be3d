"""What learning a class token costs as published and as we do it, and what each token does on seeds it did not see.

python bench/studies cat_compute [--domains ...] [--classes 2] [--images 32]

Both schedules learn the classes that the teacher recognises worst in the plain prior's images. The published one takes
its classes one by one, ours together. An evaluation is one latent through the UNet once; a CFG step of an image is two.
Learning continues where it was cut, from --work, and every finished part is written at once; `seconds` add up.
"""

import argparse
import time
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

from result_files import RESULTS, environment, read_result, write_result

from engine.classifiers import Classifier, load_classifier
from engine.embedded.judge import load_judge
from engine.evaluation.shares import shares
from engine.events import EpochEnded, Event, Events
from engine.priors import Prior, load_prior
from engine.runners.generate import generate
from engine.runners.learn_tokens import learn_tokens
from engine.settings import Sampling, TokenLearning
from engine.settings.methods import Plain
from engine.tokens.table import TokenTable
from studies.worst_classes import worst_classes

LASTS = "an hour"
SCHEDULES = {
    "published": TokenLearning.paper(),
    "ours": replace(TokenLearning(), skip_passing=False),
}
SEED = 400
"""Of the held-out images; no setting was chosen on it."""
FOUND_ON = 16
"""Plain images of each class that find the worst ones, as in worst_classes.py."""
RESULT = RESULTS / "cat_compute.json"


def learned(
    result: dict[str, Any],
    out: Path,
    work: Path,
    name: str,
    classifier: Classifier,
    prior: Prior,
    classes: list[str],
) -> TokenTable:
    """The tokens of one run, from --work where it was finished. Seconds are added to the result after each epoch, so
    that a cut loses none."""
    seconds, began = result["seconds"], time.monotonic()

    def keep(event: Event) -> None:
        nonlocal began
        if not isinstance(event, EpochEnded):
            return
        seconds[name] = round(seconds.get(name, 0.0) + time.monotonic() - began, 2)
        began = time.monotonic()
        write_result(out, result)
        print(name, event.label, event.epoch, event.accuracy, flush=True)

    return learn_tokens(
        classifier,
        prior,
        classes,
        SCHEDULES[name.split("/")[0]],
        seed=SEED,
        method=Plain(),
        out=work / f"{name.replace('/', '-')}.safetensors",
        events=Events(keep),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--domains", nargs="+", default=sorted(load_judge().domains))
    parser.add_argument(
        "--classes", type=int, default=2, help="how many of each teacher's worst classes"
    )
    parser.add_argument("--images", type=int, default=32, help="held-out images of each class")
    parser.add_argument(
        "--work", type=Path, default=Path("out/cat_compute"), help="folder of the learned tokens"
    )
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    prior, judge = load_prior("embedded"), load_judge()
    asked = {
        "classes": chosen.classes,
        "images_per_class": chosen.images,
        "prior": prior.fingerprint,
        "sampling": asdict(Sampling()),
        "schedules": {name: asdict(learning) for name, learning in SCHEDULES.items()},
    }
    result: dict[str, Any] = {"settings": asked, "classes": {}, "seconds": {}, "cells": {}}
    if (kept := read_result(chosen.out)).get("settings") == asked:
        result = kept
    result["environment"] = environment(prior.device)
    for domain in chosen.domains:
        classifier = load_classifier(f"embedded:{domain}", device=prior.device)
        if domain not in result["classes"]:
            result["classes"][domain] = worst_classes(classifier, prior, chosen.classes, FOUND_ON)
        classes = result["classes"][domain]
        for name, kind in product(["plain", *SCHEDULES], classes):
            cell = f"{name}/{domain}/{kind}"
            if cell in result["cells"]:
                continue
            table = None
            if name != "plain":
                side_by_side = classes if name == "ours" else [kind]
                run = f"{name}/{domain}/{'-'.join(side_by_side)}"
                work = chosen.work / prior.fingerprint
                table = learned(result, chosen.out, work, run, classifier, prior, side_by_side)
            held_out = generate(
                classifier,
                prior,
                [kind],
                chosen.images,
                seed=SEED,
                method=Plain(),
                tokens=table,
            )
            result["cells"][cell] = asdict(shares(held_out, judge, domain))
            if table is not None:
                result["cells"][cell]["learning"] = asdict(
                    table.training[classifier.labels.index(kind)]
                )
            write_result(chosen.out, result)
            print(cell, result["cells"][cell], flush=True)
