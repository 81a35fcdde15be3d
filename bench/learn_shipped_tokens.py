"""Learn the tokens that ship with the embedded models: those of each classifier's worst classes under the plain prompt.

python bench/learn_shipped_tokens.py [--worst 2] [--out engine/models/embedded/weights/tokens]

The worst classes are found by bench/worst_classes.py; bench/evidence.py counts what the tokens do. Every choice reads
the teacher alone. A long schedule can end far from where it was best: where the teacher then recognises less than with
the plain prompt, in finished images of seeds of their own, the default one is tried too, and the better is kept.
Files that are there are left alone: delete one to learn it anew.
"""

import argparse
import time
from pathlib import Path
from statistics import mean

from worst_classes import worst_classes

from engine.config import Sampling, TokenLearning
from engine.models import Classifier, Prior, load_classifier, load_prior
from engine.models.embedded.judge import load_judge
from engine.models.prior_sources import EMBEDDED
from engine.pipelines.generate import generate
from engine.pipelines.learn_tokens import learn_tokens
from engine.tokens.table import TokenTable, save_tokens

SCHEDULES = (
    TokenLearning(epochs=30, images_per_epoch=16, target_accuracy=0.95, skip_passing=False),
    TokenLearning(),
)
"""The first is longer than the default and leaves no class out: what ships is learned once."""
CHECK_SEEDS = (210, 211)


def recognised(
    classifier: Classifier, prior: Prior, classes: list[str], images: int, tokens: TokenTable | None
) -> float:
    """The share of unguided images that the teacher sees as their class."""
    return mean(
        int(sample.logits.argmax()) == sample.key.class_index
        for seed in CHECK_SEEDS
        for sample in generate(classifier, prior, classes, images, tokens, alignment=None, seed=seed)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--worst", type=int, default=2, help="how many classes of each teacher")
    parser.add_argument(
        "--images", type=int, default=16, help="plain images of each class that find the worst"
    )
    parser.add_argument("--out", type=Path, default=EMBEDDED / "tokens", help="folder of the token files")
    chosen = parser.parse_args()
    prior = load_prior("embedded")
    for domain in load_judge().domains:
        classifier = load_classifier(f"embedded:{domain}", device=prior.device)
        classes = worst_classes(classifier, prior, chosen.worst, chosen.images)
        began = time.monotonic()
        file = chosen.out / f"{domain}.safetensors"
        if file.exists():
            continue
        plain = recognised(classifier, prior, classes, chosen.images, None)
        found: list[tuple[float, TokenTable]] = []
        for schedule in SCHEDULES:
            table = learn_tokens(
                classifier, prior, classes, schedule, alignment=None, sampling=Sampling(), out=None
            )
            found.append((recognised(classifier, prior, classes, chosen.images, table), table))
            print(domain, f"recognised: plain {plain:.2f}, with tokens {found[-1][0]:.2f}", flush=True)
            if found[-1][0] >= plain:
                break
        table = max(found, key=lambda pair: pair[0])[1]
        save_tokens(table, file)
        print(domain, f"{time.monotonic() - began:.0f} s", flush=True)
        for index, training in table.training.items():
            print(" ", classifier.labels[index], training, flush=True)


if __name__ == "__main__":
    main()
