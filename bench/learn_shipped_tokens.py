"""Learn the tokens that ship with the embedded models: of each classifier, those that help its teacher.

python bench/learn_shipped_tokens.py [--domains ...] [--out engine/models/embedded/weights/tokens]

Every class of a classifier learns one, without guidance. A token is kept where the teacher's cross-entropy is less with
it than with the plain prompt, over finished images of a seed of their own and random views of these; a class without a
token is asked for by its plain prompt. Every choice reads the teacher alone. bench/evidence.py counts what the tokens
do, on other seeds. Files that are there are left alone: delete one to learn it anew.
"""

import argparse
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from engine.config import Sampling, TokenLearning
from engine.models import Classifier, Prior, load_classifier, load_prior
from engine.models.embedded.judge import load_judge
from engine.models.prior_sources import EMBEDDED
from engine.pipelines.generate import generate
from engine.pipelines.learn_tokens import learn_tokens
from engine.tokens.augment import augmented
from engine.tokens.table import TokenTable, save_tokens
from engine.types import Sample

LEARNING = TokenLearning(epochs=12, target_accuracy=0.95, skip_passing=False)
"""Longer than the default, and no class is left out: what ships is learned once."""
CHECK_SEED, CHECK_IMAGES, VIEWS = 210, 24, 4


@cache
def plain_images(prior: Prior) -> list[Sample]:
    """The plain prior's, the same whoever looks at them."""
    return list(generate("embedded:photo", prior, None, CHECK_IMAGES, alignment=None, seed=CHECK_SEED))


@torch.no_grad()
def losses(classifier: Classifier, samples: Iterable[Sample]) -> Tensor:
    """The teacher's cross-entropy of each class: (K,), the mean over its images and VIEWS random views of each."""
    samples = list(samples)
    images = torch.stack([sample.image for sample in samples])
    classes = torch.tensor([sample.key.class_index for sample in samples])
    rng = Generator().manual_seed(0)
    views = [images, *(augmented(images, rng) for _ in range(VIEWS))]
    each = torch.stack([cross_entropy(classifier.logits(view), classes, reduction="none") for view in views])
    return torch.stack([each[:, classes == number].mean() for number in range(len(classifier.labels))])


def only(table: TokenTable, kept: list[int]) -> TokenTable:
    """A table of some of its tokens, by their places."""
    chosen = {name: tuple(getattr(table, name)[n] for n in kept) for name in ("classes", "labels", "names")}
    return replace(table, rows=table.rows[kept], **chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--domains", nargs="+", choices=load_judge().domains, default=load_judge().domains)
    parser.add_argument("--out", type=Path, default=EMBEDDED / "tokens", help="folder of the token files")
    chosen = parser.parse_args()
    prior = load_prior("embedded")
    for domain in chosen.domains:
        began, file = time.monotonic(), chosen.out / f"{domain}.safetensors"
        if file.exists():
            continue
        classifier = load_classifier(f"embedded:{domain}", device=prior.device)
        table = learn_tokens(classifier, prior, None, LEARNING, alignment=None, sampling=Sampling())
        drawn = generate(classifier, prior, None, CHECK_IMAGES, table, alignment=None, seed=CHECK_SEED)
        with_tokens, plain = losses(classifier, drawn), losses(classifier, plain_images(prior))
        kept = [place for place, number in enumerate(table.classes) if with_tokens[number] < plain[number]]
        save_tokens(only(table, kept), file)
        print(domain, f"{time.monotonic() - began:.0f} s", flush=True)
        for number, label in enumerate(classifier.labels):
            print(f"  {label}: plain {plain[number]:.2f}, token {with_tokens[number]:.2f}", flush=True)


if __name__ == "__main__":
    main()
