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


def trial_images(learning: TokenLearning) -> int:
    """How many images the trial makes of each class that is looked at: none where there is nothing to choose."""
    words = len(learning.styles) if learning.init == "words" else 1
    return IMAGES_PER_CLASS * (words + 1) if words > 1 else 0


def best_word(drawing: Drawing, words: Sequence[str], events: Events = SILENT) -> str:
    """Of the words before the class names that lower L_BN of plain images, the one of the least `Trial.score`.

    The score is log L_BN + cross-entropy. Where no word lowers L_BN, NO_STYLE; a word that is alone is not tried. With
    a classifier without statistics, which has no L_BN, cross-entropy decides alone.
    """
    if len(words) == 1:
        return words[0]
    few = tuple(looked_at(drawing.classes))
    unguided = replace(drawing, decoder=None, descend=None, tokens=None, classes=few)

    def trial(word: str) -> Trial:
        prompt = drawing.sampling.prompt.replace("{class}", f"{word} {{class}}".lstrip())
        plain = unguided.asking(
            method=Plain(sampling=replace(drawing.sampling, prompt=prompt)),
            images_per_class=IMAGES_PER_CLASS,
            seed=drawing.seed + WORD_SEED,
        )
        return observe(plain, events, TRIAL)

    with events.task(TRIAL, (1 + len(words)) * len(few) * IMAGES_PER_CLASS):
        without, trials = trial(""), {word: trial(word) for word in words}
    nearer = [word for word in words if _distance(trials[word]) < _distance(without)]
    return min(nearer, key=lambda word: trials[word].score, default=NO_STYLE)


def _distance(trial: Trial) -> float:
    """How far images are from the domain, as far as the classifier knows."""
    return trial.score if trial.l_bn is None else trial.l_bn
