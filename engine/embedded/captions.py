"""The language of the embedded prior: captions of the seven classes, in which the domain is often left out.

A caption without its domain is what makes the prior like a large public one: "a dog" may come out in any style, and
it takes a classifier's statistics, or a learned token in the adjective's place, to say which. A large prior's words are
also vague and ambiguous, so some captions name a class by what it is a kind of ("an animal"), or by one invented word
that means either of two classes.
"""

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
KINDS = {
    "animal": ("dog", "elephant", "giraffe", "horse"),
    "instrument": ("guitar",),
    "building": ("house",),
}
"""Words for what classes are kinds of."""
AMBIGUOUS = {"blick": ("dog", "guitar")}
"""Invented words that mean any of several classes."""
DROP_CAPTION, DROP_DOMAIN = 0.1, 0.45
"""Chances of an empty caption (for classifier-free guidance) and of one that does not tell the domain."""
OTHER_WORD = 0.12
"""Chance of each other word for a class, in place of its name."""


def caption(template: str, noun: str) -> str:
    return template.format(a=article(noun), noun=noun)


def styled_prompt(domain: str, noun: str) -> str:
    """The first template of a domain: 'an art painting of a dog'."""
    return caption(STYLED[domain][0], noun)


def words_for(noun: str) -> dict[str, float]:
    """The words that name a class in captions, its own name first, each with its chance."""
    others = [word for word, nouns in (KINDS | AMBIGUOUS).items() if noun in nouns]
    return {noun: 1 - OTHER_WORD * len(others)} | dict.fromkeys(others, OTHER_WORD)


def caption_chances(domain: str, noun: str) -> dict[str, float]:
    """Every caption that training may give an image of a class in a domain, with its chance; they sum to 1."""
    chances = {"": DROP_CAPTION}
    shares = ((NEUTRAL, DROP_DOMAIN), (STYLED[domain], 1 - DROP_CAPTION - DROP_DOMAIN))
    for templates, share in shares:
        for template in templates:
            for word, chance in words_for(noun).items():
                text = caption(template, word)
                chances[text] = chances.get(text, 0.0) + share * chance / len(templates)
    return chances


def every_caption(nouns: tuple[str, ...], domains: tuple[str, ...] = tuple(STYLED)) -> list[str]:
    """All captions there are, the empty one first, without doubles."""
    found = (caption_chances(domain, noun) for domain in domains for noun in nouns)
    return list(dict.fromkeys(text for chances in found for text in chances))
