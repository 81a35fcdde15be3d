"""Words of a prompt. `A/An {token} {class name}` is the paper's template; without a token it is the plain prompt."""

import re
from string import Formatter

PLAIN = "{a} {class}"

VOWELS = "aeiou"
SOUNDS_LIKE_YOU = ("uni", "use", "usa", "euro", "ewe", "one")
SILENT_H = ("hour", "honest", "heir", "honour", "honor")


def article(noun: str) -> str:
    """'a' or 'an', by the sound at the start of an English noun."""
    word = noun.strip().lower()
    if word.startswith(SOUNDS_LIKE_YOU):
        return "a"
    return "an" if word.startswith((*VOWELS, *SILENT_H)) else "a"


def class_prompt(
    label: str, token: str = "", template: str = PLAIN, *, instead: bool = False
) -> str:
    """The prompt of one class: 'an elephant', or with a token 'an <ddis-elephant> elephant'.

    template: {a} is the article, {class} the class name behind its token, as in 'a sketch of {a} {class}'. instead:
    whether the token takes the name's place. The article is that of the class name: a learned token has no sound of its
    own. A number in brackets at the end, which only tells two labels of the same name apart, is left out.
    """
    words = re.sub(r" \(\d+\)$", "", label.replace("_", " ").strip())
    shown = [token] if token and instead else [token, words]
    return template.format_map({"a": article(words), "class": " ".join(filter(None, shown))})


def names_class(template: str) -> bool:
    """Whether a text is a template: {class} is in it and, if wanted, {a}, without a word on how to format them."""
    try:
        found = [part for part in Formatter().parse(template) if part[1] is not None]
    except ValueError:
        return False
    names = {name for _, name, _, _ in found}
    plain = not any(how or cast for _, _, how, cast in found)
    return plain and "class" in names and names <= {"a", "class"}


def up_to_class(template: str) -> str:
    """The beginning of a template, up to and with its class name."""
    found = ""
    for text, name, _, _ in Formatter().parse(template):
        found += text.replace("{", "{{").replace("}", "}}")
        if name is not None:
            found += f"{{{name}}}"
        if name == "class":
            break
    return found
