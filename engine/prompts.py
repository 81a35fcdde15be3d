"""Words of a prompt. `A/An {token} {class name}` is the paper's template; without a token it is the plain prompt."""

import re

VOWELS = "aeiou"
SOUNDS_LIKE_YOU = ("uni", "use", "usa", "euro", "ewe", "one")
SILENT_H = ("hour", "honest", "heir", "honour", "honor")


def article(noun: str) -> str:
    """'a' or 'an', by the sound at the start of an English noun."""
    word = noun.strip().lower()
    if word.startswith(SOUNDS_LIKE_YOU):
        return "a"
    return "an" if word.startswith((*VOWELS, *SILENT_H)) else "a"


def class_prompt(label: str, token: str = "") -> str:
    """The prompt of one class: 'an elephant', or with a token 'an <ddis-elephant> elephant'.

    The article is that of the class name: a learned token has no sound of its own. A number in brackets at the end,
    which only tells two labels of the same name apart, is left out.
    """
    words = re.sub(r" \(\d+\)$", "", label.replace("_", " ").strip())
    return " ".join(part for part in (article(words), token, words) if part)
