"""Learn the tokens that ship with the embedded models: of each classifier, those that help its teacher.

python bench/learn_shipped_tokens.py [--domains ...] [--out engine/models/embedded/weights/tokens]

Every class of a classifier learns one, without guidance. A token is kept where the teacher's cross-entropy is less
with it than with the plain prompt, by more than chance would have it: over finished images of a seed of their own and
random views of these, the mean of the differences between images of one noise is above SURE standard errors. A class
without a token is asked for by its plain prompt, and a classifier without any has no file. Every choice reads the
teacher alone. bench/evidence.py counts what the tokens do, on other seeds. Files that are there are left alone:
delete one to learn it anew.
"""

import argparse
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Generator
from torch.nn.functional import cross_entropy

from engine.config import Sampling, TokenLearning
from engine.models import Classifier, Prior, load_classifier, load_prior
from engine.models.embedded.judge import load_judge
from engine.models.prior_sources import EMBEDDED
from engine.pipelines.generate import generate
from engine.pipelines.learn_tokens import learn_tokens
from engine.tokens.augment import augmented
from engine.tokens.table import TokenTable, save_tokens
from engine.types import ImageKey, Sample

LEARNING = TokenLearning(epochs=12, target_accuracy=0.95, skip_passing=False)
"""Longer than the default, and no class is left out: what ships is learned once."""
CHECK_SEED, CHECK_IMAGES, VIEWS, SURE = 210, 24, 4, 2.0


@cache
def plain_images(prior: Prior) -> list[Sample]:
    """The plain prior's, the same whoever looks at them."""
    return list(generate("embedded:photo", prior, None, CHECK_IMAGES, alignment=None, seed=CHECK_SEED))


@torch.no_grad()
def losses(classifier: Classifier, samples: Iterable[Sample]) -> dict[ImageKey, float]:
    """The teacher's cross-entropy of each image: the mean over it and VIEWS random views of it."""
    samples = sorted(samples, key=lambda sample: sample.key)
    images = torch.stack([sample.image for sample in samples]).to(classifier.device)
    classes = torch.tensor([sample.key.class_index for sample in samples], device=classifier.device)
    rng = Generator().manual_seed(0)
    views = [images, *(augmented(images, rng) for _ in range(VIEWS))]
    each = torch.stack([cross_entropy(classifier.logits(view), classes, reduction="none") for view in views])
    return {sample.key: loss for sample, loss in zip(samples, each.mean(0).tolist(), strict=True)}


def gain(plain: dict[ImageKey, float], found: dict[ImageKey, float], number: int) -> tuple[float, float]:
    """How much less a class's cross-entropy is with its token, and the standard error of that."""
    less = torch.tensor([plain[key] - loss for key, loss in found.items() if key.class_index == number])
    return less.mean().item(), (less.std() / len(less) ** 0.5).item()


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
        plain, found = losses(classifier, plain_images(prior)), losses(classifier, drawn)
        gains = [gain(plain, found, number) for number in table.classes]
        kept = [place for place, (less, error) in enumerate(gains) if less > SURE * error]
        if kept:
            save_tokens(only(table, kept), file)
        print(domain, f"{time.monotonic() - began:.0f} s", flush=True)
        for place, (label, (less, error)) in enumerate(zip(table.labels, gains, strict=True)):
            print(f"  {label}: {less:+.2f} +- {error:.2f}{' kept' if place in kept else ''}", flush=True)


if __name__ == "__main__":
    main()
