"""The words of a run's prompts, checked before it: whether the class is read, and whether its name means anything."""

import re
import warnings
from collections.abc import Iterable, Sequence

from engine.classifiers.imagenet import imagenet_names
from engine.errors import ConfigError, EngineWarning
from engine.priors import Prior
from engine.priors.wording import cut_by, knows
from engine.prompts import class_prompt, up_to_class
from engine.tokens.table import TokenTable

NUMBERED = re.compile(r"(?:class|label|category|cat|cls|id|c|k)?[\s_#-]*\d+", re.IGNORECASE)
SYNSET = re.compile(r"n\d{8}")
SHOWN = 5
LEARNED = 1
"""Tokens that a learned one takes, at least."""


class PromptWarning(EngineWarning):
    """A prompt that is not read whole, a class name that the prior cannot know, or tokens of other classes alone."""


def check_words(
    prior: Prior, labels: Sequence[str], template: str, learned: bool, instead: bool = False
) -> None:
    """Check the prompts of these classes.

    Args:
        prior: that reads them.
        labels: of the classes that are made.
        template: of their prompts.
        learned: whether a learned token stands before each class's name, which then need not say anything.
        instead: whether it stands in place of the name.

    Raises:
        ConfigError: where no text encoder reads a prompt as far as its class.

    Warns:
        PromptWarning: where a part of a prompt is not read, and of class names that the prior cannot know.
    """
    read = ["a" for _ in labels] if learned and instead else labels  # of one token
    check_length(prior, read, template, LEARNED if learned and not instead else 0)
    if not learned:
        _warn_of_names(prior, labels)


def warn_of_no_token(tokens: TokenTable, classes: Sequence[int], labels: Sequence[str]) -> None:
    """Warn where a table has no token of the classes that are drawn. labels: of these classes."""
    if set(tokens.classes).isdisjoint(classes):
        warnings.warn(
            f"the tokens have no effect: they are of {_some(tokens.labels) or 'no class'}, and what is drawn is "
            f"{_some(labels)}, with the plain prompt.",
            PromptWarning,
            stacklevel=3,
        )


def check_length(prior: Prior, labels: Sequence[str], template: str, more: int = 0) -> None:
    """The part of `check_words` that is about how far prompts are read. more: tokens that learned ones add."""
    encoders = [encoder.key for encoder in prior.text_encoders()]
    if not encoders:
        return
    lost, cut = [], []
    for label in labels:
        whole = class_prompt(label, template=template)
        to_class = class_prompt(label, template=up_to_class(template))
        if len(cut_by(prior, to_class, more)) == len(encoders):
            lost.append(label)
        elif cut_by(prior, whole, more):
            cut.append(label)
    if lost:
        raise ConfigError(
            f"prompt is {template!r}, of which prior {prior.name!r} does not read as far as the class "
            f"({_some(lost)}), expected the class within the tokens that its text encoders read: all classes would be "
            "drawn alike. Shorten the text before {class}, or put that first."
        )
    if cut:
        where = sorted(
            {
                key
                for label in cut
                for key in cut_by(prior, class_prompt(label, template=template), more)
            }
        )
        warnings.warn(
            f"the prompts of {_some(cut)} are longer than what prior {prior.name!r} reads with {', '.join(where)}: "
            "their ends are left out there. Shorten `prompt`.",
            PromptWarning,
            stacklevel=3,
        )


def _warn_of_names(prior: Prior, labels: Sequence[str]) -> None:
    synsets = [label for label in labels if SYNSET.fullmatch(label.strip())]
    numbers = [label for label in labels if NUMBERED.fullmatch(label.strip())]
    others = [
        label for label in labels if label not in (*synsets, *numbers) and not knows(prior, label)
    ]
    if synsets:
        known = imagenet_names()
        names = [known[label.strip()] for label in synsets if label.strip() in known]
        called = (
            f". ImageNet calls them {_some(names)}: set `labels` to these words, or to 'imagenet' if they are all its "
            "classes"
            if len(names) == len(synsets)
            else ": set `labels` to the words that they stand for"
        )
        _warn(
            f"the classes are named by ids of WordNet ({_some(synsets)}), which a prior does not know{called}"
        )
    if numbers:
        _warn(
            f"the classes are named by numbers ({_some(numbers)}), of which prior {prior.name!r} draws figures or "
            "nothing: set `labels` to words, in the order of the outputs"
        )
    if others and prior.text_encoders():
        _warn(
            f"prior {prior.name!r} does not know the words of {_some(others)} and spells them: it has hardly seen such "
            "images. Set `labels` to more common words, choose `classes`, or another prior"
        )


def _warn(text: str) -> None:
    warnings.warn(f"{text}.", PromptWarning, stacklevel=5)


def _some(labels: Iterable[str]) -> str:
    found = list(labels)
    shown = ", ".join(map(repr, found[:SHOWN]))
    return f"{shown} and {len(found) - SHOWN} more" if len(found) > SHOWN else shown
