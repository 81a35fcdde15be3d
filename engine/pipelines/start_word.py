"""The word that class alignment tokens start from: of some styles, the one whose images suit the classifier best.

A token's gradient makes small steps; a word that the text encoder knows takes the token into a style at once. One word
serves all classes, because the domain is the classifier's: what sets a class apart is left to learning.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from engine.config import TokenLearning
from engine.pipelines.job import Job
from engine.pipelines.trial import observe
from engine.sampling.ddim import OnStep

LOOKED_AT = 16
"""Classes at most whose images are looked at: they are to show a style."""
IMAGES_PER_CLASS = 4
"""Of a class that is looked at and a word."""
WORD_SEED = 1_000_033
"""Added to the run's seed: these images are neither those of learning nor of what is made later."""

Class = TypeVar("Class")


def looked_at(classes: Sequence[Class]) -> Sequence[Class]:
    """The classes whose images the trial makes, evenly spread."""
    return classes[:: -(-len(classes) // LOOKED_AT)]


def trial_images(learning: TokenLearning) -> int:
    """How many images the trial makes of each class that is looked at: none where there is nothing to choose."""
    words = len(learning.styles) if learning.init == "words" else 1
    return IMAGES_PER_CLASS * words if words > 1 else 0


def best_word(job: Job, words: Sequence[str], on_step: OnStep | None = None) -> str:
    """The word before the class names with the least `Trial.score` (log L_BN + cross-entropy) of plain images."""
    if len(words) == 1:
        return words[0]
    plain = replace(
        job,
        alignment=None,
        decoder=None,
        descend=None,
        tokens=None,
        classes=tuple(looked_at(job.classes)),
        images_per_class=IMAGES_PER_CLASS,
        seed=job.seed + WORD_SEED,
    )

    def score(word: str) -> float:
        prompt = job.sampling.prompt.replace("{class}", f"{word} {{class}}")
        return observe(replace(plain, sampling=replace(job.sampling, prompt=prompt)), on_step).score

    return min(words, key=score)
