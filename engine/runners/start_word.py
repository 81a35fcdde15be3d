"""The word that class alignment tokens start from: of some styles, the one whose images suit the classifier best.

A token's gradient makes small steps; a word that the text encoder knows takes the token into a style at once. One word
serves all classes, because the domain is the classifier's: what sets a class apart is left to learning. A word that
takes the images away from the domain is none to start from, however well the classifier tells its classes apart.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from engine.events import SILENT, Events
from engine.methods.drawing import Drawing
from engine.runners.trial import Trial, observe
from engine.settings import TokenLearning
from engine.settings.methods import Plain

TRIAL = "images that try words"
"""The task whose steps are reported."""
LOOKED_AT = 16
"""Classes at most whose images are looked at: they are to show a style."""
IMAGES_PER_CLASS = 4
"""Of a class that is looked at and a word."""
NO_STYLE = "a"
"""What tokens start from where no style brings the images nearer to the domain."""
WORD_SEED = 1_000_033
"""Added to the run's seed: these images are neither those of learning nor of what is made later."""

Class = TypeVar("Class")


def looked_at(classes: Sequence[Class]) -> Sequence[Class]:
    """The classes whose images the trial makes, evenly spread."""
    return classes[:: -(-len(classes) // LOOKED_AT)]


def without_guidance(drawing: Drawing) -> Drawing:
    """The same drawing by the prior alone, of the classes whose images a trial looks at."""
    few = tuple(looked_at(drawing.classes))
    method = Plain(sampling=drawing.sampling)
    return replace(drawing.asking(method=method), decoder=None, descend=None, classes=few)


def trial_images(learning: TokenLearning) -> int:
    """How many images the trial makes of each class that is looked at: none where there is nothing to choose."""
    words = len(learning.styles) if learning.init == "words" else 1
    return IMAGES_PER_CLASS * (words + 1) if words > 1 else 0


def best_word(drawing: Drawing, words: Sequence[str], events: Events = SILENT) -> str:
    """Of the words before the class names, the one whose plain images have the least `Trial.distance`.

    Where none comes nearer than no word, NO_STYLE; a word that is alone is not tried.
    """
    if len(words) == 1:
        return words[0]
    unguided = replace(without_guidance(drawing), tokens=None)

    def trial(word: str) -> Trial:
        prompt = drawing.sampling.prompt.replace("{class}", f"{word} {{class}}".lstrip())
        plain = unguided.asking(
            method=Plain(sampling=replace(drawing.sampling, prompt=prompt)),
            images_per_class=IMAGES_PER_CLASS,
            seed=drawing.seed + WORD_SEED,
        )
        return observe(plain, events, TRIAL)

    total = (1 + len(words)) * len(unguided.classes) * IMAGES_PER_CLASS
    with events.task(TRIAL, total):
        without, trials = trial(""), {word: trial(word) for word in words}
    best = min(words, key=lambda word: trials[word].distance)
    return best if trials[best].distance < without.distance else NO_STYLE
