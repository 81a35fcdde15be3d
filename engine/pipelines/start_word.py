"""The word that class alignment tokens start from: of some styles, the one whose images suit the classifier best.

A token's gradient makes small steps; a word that the text encoder knows takes the token into a style at once. One word
serves all classes, because the domain is the classifier's: what sets a class apart is left to learning.
"""

from collections.abc import Sequence
from dataclasses import replace

from engine.pipelines.job import Job
from engine.pipelines.trial import observe
from engine.sampling.ddim import OnStep

LOOKED_AT = 16
"""Classes at most whose images are looked at: they are to show a style."""
IMAGES_PER_CLASS = 4
WORD_SEED = 1_000_033
"""Added to the run's seed: these images are neither those of learning nor of what is made later."""


def best_word(job: Job, words: Sequence[str], on_step: OnStep | None = None) -> str:
    """The word before the class names with the least `Trial.score` (log L_BN + cross-entropy) of plain images."""
    if len(words) == 1:
        return words[0]
    every = -(-len(job.classes) // LOOKED_AT)
    plain = replace(
        job,
        alignment=None,
        decoder=None,
        descend=None,
        tokens=None,
        classes=job.classes[::every],
        images_per_class=IMAGES_PER_CLASS,
        seed=job.seed + WORD_SEED,
    )

    def score(word: str) -> float:
        prompt = job.sampling.prompt.replace("{class}", f"{word} {{class}}")
        return observe(replace(plain, sampling=replace(job.sampling, prompt=prompt)), on_step).score

    return min(words, key=score)
