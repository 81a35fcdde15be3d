"""The language of the embedded prior: captions of the seven classes, in which the domain is often left out.

A caption without its domain is what makes the prior like a large public one: "a dog" may come out in any style, and
it takes a classifier's statistics, or a learned token in the adjective's place, to say which.
"""

import torch
from torch import Generator

from engine.prompts import article

NEUTRAL = (
    "{a} {noun}",
    "{a} {noun}",
    "a picture of {a} {noun}",
    "an image of {a} {noun}",
    "{noun}",
)
STYLED = {
    "art_painting": (
        "an art painting of {a} {noun}",
        "a painting of {a} {noun}",
        "a painted {noun}",
    ),
    "cartoon": ("a cartoon of {a} {noun}", "a comic of {a} {noun}", "a cartoon {noun}"),
    "photo": ("a photo of {a} {noun}", "a photograph of {a} {noun}", "a real {noun}"),
    "sketch": ("a sketch of {a} {noun}", "a drawing of {a} {noun}", "a sketched {noun}"),
}
DROP_CAPTION, DROP_DOMAIN = 0.1, 0.45
"""Chances of an empty caption (for classifier-free guidance) and of one that does not tell the domain."""


def caption(template: str, noun: str) -> str:
    return template.format(a=article(noun), noun=noun)


def styled_prompt(domain: str, noun: str) -> str:
    """The first template of a domain: 'an art painting of a dog'."""
    return caption(STYLED[domain][0], noun)


def every_caption(nouns: tuple[str, ...]) -> list[str]:
    """All captions there are, the empty one first, without doubles."""
    templates = (*NEUTRAL, *(template for styles in STYLED.values() for template in styles))
    return list(
        dict.fromkeys(["", *(caption(template, noun) for noun in nouns for template in templates)])
    )


def random_caption(domain: str, noun: str, rng: Generator) -> str:
    """One caption of an image, drawn as training sees it."""
    chance, pick = torch.rand(2, generator=rng).tolist()
    if chance < DROP_CAPTION:
        return ""
    templates = NEUTRAL if chance < DROP_CAPTION + DROP_DOMAIN else STYLED[domain]
    return caption(templates[int(pick * len(templates))], noun)
