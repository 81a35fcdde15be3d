"""Articles and templates."""

import pytest

from engine.errors import ConfigError
from engine.prompts import article, class_prompt, names_class
from engine.settings import Sampling


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("dog", "a"),
        ("elephant", "an"),
        ("Umbrella", "an"),
        ("unicycle", "a"),
        ("hourglass", "an"),
        ("house", "a"),
    ],
)
def test_the_article_follows_the_sound(noun: str, expected: str) -> None:
    assert article(noun) == expected


def test_a_prompt_is_article_token_and_class_name() -> None:
    assert class_prompt("dog") == "a dog"
    assert class_prompt("elephant", "<ddis-elephant>") == "an <ddis-elephant> elephant"
    assert class_prompt("red_fox") == "a red fox"
    assert class_prompt("crane (517)") == "a crane"


def test_a_template_puts_article_and_token_in_their_places() -> None:
    assert class_prompt("elephant", template="a sketch of {a} {class}") == "a sketch of an elephant"
    assert class_prompt("dog", "<t>", "{class}, manga") == "<t> dog, manga"
    assert names_class("{a} {class}")
    assert names_class("{class}, manga")
    assert not names_class("{a {class}")


@pytest.mark.parametrize(
    "prompt",
    ["a dog", "{class} {style}", "{class", "{}", "{0} {class}", "{class:d}", "{class!r}", ""],
)
def test_a_prompt_that_is_no_template_is_refused(prompt: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a text with \{class\} in it"):
        Sampling(prompt=prompt)
