"""Words that messages share."""

import pytest

from engine.errors import counted


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [(1, "image", "1 image"), (0, "class", "0 classes"), (1234, "layer call", "1,234 layer calls")],
)
def test_a_noun_is_of_its_number(number: int, noun: str, said: str) -> None:
    assert counted(number, noun) == said
