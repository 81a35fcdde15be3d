"""Articles and templates."""

import pytest

from engine.prompts import article, class_prompt


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
