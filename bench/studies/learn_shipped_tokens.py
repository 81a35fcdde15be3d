"""Learn the tokens that ship with the embedded models: of each classifier, those that help its teacher.

python bench/studies learn_shipped_tokens [--domains ...] [--out engine/embedded/weights/tokens]

Every class of a classifier learns one, without guidance: from the style word that suits the classifier best, and where
none does, or that helps no more than chance would have it (`TokenLearning.check_images`), from the word "a". A class
that neither helps is asked for by its plain prompt. Tokens that together take plain images away from the domain do not
ship, and a classifier without any has no file. Every choice reads the teacher alone. evidence.py counts what the
tokens do, on other seeds. Files that are there are left alone: delete one to learn it again.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from engine.classifiers import Classifier, load_classifier
from engine.embedded.judge import load_judge
from engine.priors import Prior, load_prior
from engine.runners.asking import asked
from engine.runners.learn_tokens import learn_tokens
from engine.runners.start_word import NO_STYLE
from engine.runners.trial import observe
from engine.settings import TokenLearning
from engine.settings.methods import Plain
from engine.settings.sources import EMBEDDED
from engine.tokens.files import save_tokens
from engine.tokens.table import TokenTable
from studies.options import several

LASTS = "an hour"
STARTS = ("words", NO_STYLE)
LEARNING = TokenLearning(epochs=12, target_accuracy=0.95, skip_passing=False, check_images=32)
"""Longer than the default, and no class is left out: what ships is learned once."""
JOINT_IMAGES, JOINT_SEED = 8, 300
"""Of each class, for `nearer`."""


def joined(tables: Sequence[TokenTable]) -> TokenTable:
    """One table of the tokens of several runs; its `run` has their models, and the settings of each by its start."""
    first = tables[0]
    sides = {
        name: sum((getattr(one, name) for one in tables), ())
        for name in ("classes", "labels", "names")
    }
    training = {
        number: what
        for one in tables
        for number, what in one.training.items()
        if number in one.classes
    }
    run = {
        "models": first.run["models"],
        "learning": {table.run["learning"]["init"]: table.run["learning"] for table in tables},
    }
    return replace(
        first, rows=torch.cat([one.rows for one in tables]), training=training, run=run, **sides
    )


def helping(classifier: Classifier, prior: Prior) -> TokenTable:
    """The tokens of a classifier that help."""
    tables: list[TokenTable] = []
    left = list(classifier.labels)
    for start in STARTS:
        learning = replace(LEARNING, init=start)
        table = learn_tokens(classifier, prior, left, learning, method=Plain())
        for number, found in table.training.items():
            print(
                f"  {classifier.labels[number]}, from {start}: {found.outcome}, {found.finished:.2f}",
                flush=True,
            )
        tables.append(table)
        left = [label for label in left if label not in table.labels]
        if not left or NO_STYLE in {found.start for found in table.training.values()}:
            break
    return joined(tables)


def nearer(classifier: Classifier, prior: Prior, table: TokenTable) -> bool:
    """Whether plain images of all classes are nearer to the domain with the tokens (`Trial.distance`).

    Of a single class it says little: images that show the class more clearly are less like the whole training set.
    """
    without, those = (
        observe(
            asked(
                classifier,
                prior,
                images_per_class=JOINT_IMAGES,
                seed=JOINT_SEED,
                method=Plain(),
                tokens=tokens,
            ).prepare()
        ).distance
        for tokens in (None, table)
    )
    print(f"  distance of plain images {without:.2f}, with the tokens {those:.2f}", flush=True)
    return those < without


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    several(parser, "--domains", load_judge().domains)
    parser.add_argument(
        "--out", type=Path, default=EMBEDDED / "tokens", help="folder of the token files"
    )
    chosen = parser.parse_args()
    prior = load_prior("embedded")
    for domain in chosen.domains:
        began, file = time.monotonic(), chosen.out / f"{domain}.safetensors"
        if file.exists():
            continue
        classifier = load_classifier(f"embedded:{domain}", device=prior.device)
        table = helping(classifier, prior)
        ships = bool(table.labels) and nearer(classifier, prior, table)
        if ships:
            save_tokens(table, file)
        named = ", ".join(table.labels) if ships else "none ships"
        print(f"{domain}: {named}, {time.monotonic() - began:.0f} s", flush=True)
