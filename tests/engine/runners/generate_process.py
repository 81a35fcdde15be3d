"""A process that runs the same small `generate` into each folder it is told, in a child that a test can kill.

Arguments: the prior's folder and the classifier's. Reads a folder a line; answers with the child's process id, and with
its exit code once it has ended. Forking from here, where all is loaded and no thread runs, costs milliseconds.
"""

import os
import sys
import tempfile
import traceback
from pathlib import Path

import torch

from engine.classifiers import Classifier, load_classifier
from engine.priors import Prior, load_prior
from engine.runners.generate import generate
from engine.settings import Alignment, Sampling


def run(prior: Prior, classifier: Classifier, out: Path) -> None:
    images = generate(
        classifier,
        prior,
        classes=["dog", "horse", "person"],
        images_per_class=2,
        alignment=Alignment(),
        sampling=Sampling(steps=2, batch=2),
        seed=3,
        out=out,
    )
    for _ in images:
        pass


def answer(word: object) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main() -> None:
    torch.set_num_threads(1)
    prior, classifier = (
        load_prior(sys.argv[1], device="cpu"),
        load_classifier(sys.argv[2], device="cpu"),
    )
    with tempfile.TemporaryDirectory() as folder:
        run(prior, classifier, Path(folder) / "run")  # what is loaded on first use is then there
    answer("ready")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                run(prior, classifier, Path(line.strip()))
                code = 0
            finally:
                if code:
                    traceback.print_exc()
                os._exit(code)
        answer(child)
        answer(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main()
