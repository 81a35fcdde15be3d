"""The captions of the embedded prior, and that each of their words is one token."""

import pytest

from engine.embedded.captions import (
    AMBIGUOUS,
    DROP_CAPTION,
    DROP_DOMAIN,
    OTHER_WORD,
    STYLED,
    caption_chances,
    every_caption,
    words_for,
)
from engine.embedded.train.data import CLASSES, DOMAINS
from engine.embedded.train.prior_networks import build_tokenizer


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("noun", CLASSES)
def test_chances_sum_to_one_and_keep_their_shares(domain, noun):
    chances = caption_chances(domain, noun)
    assert sum(chances.values()) == pytest.approx(1)
    assert chances[""] == pytest.approx(DROP_CAPTION)
    styled = {
        text
        for text in every_caption((noun,), (domain,))
        if any(told.split()[1 if told[0] == "{" else 0] in text for told in STYLED[domain])
    }
    unstyled = sum(chance for text, chance in chances.items() if text and text not in styled)
    assert unstyled <= DROP_DOMAIN + 1e-9


def test_a_class_has_its_kind_s_word_and_the_ambiguous_one():
    assert words_for("dog") == pytest.approx(
        {"dog": 1 - 2 * OTHER_WORD, "animal": OTHER_WORD, "blick": OTHER_WORD}
    )
    assert words_for("person") == {"person": 1}
    assert caption_chances("photo", "dog")["an animal"] == pytest.approx(
        DROP_DOMAIN * OTHER_WORD * 2 / 5
    )
    for word, nouns in AMBIGUOUS.items():
        assert len(nouns) == 2
        assert {noun for noun in CLASSES if word in words_for(noun)} == set(nouns)


def test_each_word_of_each_caption_is_one_token():
    tokenizer = build_tokenizer()
    for text in every_caption(CLASSES):
        assert tokenizer.tokenize(text) == [word + "</w>" for word in text.split()]
