"""Learn the tokens that ship with the embedded models: those of each classifier's worst classes under the plain prompt.

python bench/learn_shipped_tokens.py [--worst 2] [--out engine/models/embedded/weights/tokens]

The worst classes are found as bench/tokens.py finds them, which then counts what the tokens do. Every choice reads the
teacher alone. A run that is cut goes on where it stopped; delete a finished file to learn it anew.
"""

import argparse
import time
from pathlib import Path

from tokens import worst_classes

from engine.config import Sampling, TokenLearning
from engine.models import load_classifier, load_prior
from engine.models.embedded.judge import load_judge
from engine.models.prior_sources import EMBEDDED
from engine.pipelines.learn_tokens import learn_tokens

SHIPPED = TokenLearning(epochs=30, images_per_epoch=16, target_accuracy=0.95, skip_passing=False)
"""Longer than the default: what ships is learned once, and no class of it is left out."""


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
        table = learn_tokens(
            classifier, prior, classes, SHIPPED, alignment=None, sampling=Sampling(),
            out=chosen.out / f"{domain}.safetensors",
        )  # fmt: skip
        print(domain, f"{time.monotonic() - began:.0f} s", flush=True)
        for index, training in table.training.items():
            print(" ", classifier.labels[index], training, flush=True)


if __name__ == "__main__":
    main()
