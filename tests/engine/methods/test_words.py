"""Prompts that a prior does not read to their end, and class names that it cannot know."""

import warnings

import pytest
import torch

from engine.classifiers import load_classifier
from engine.classifiers.imagenet import imagenet_names
from engine.errors import ConfigError
from engine.methods.words import PromptWarning, check_words, warn_of_no_token
from engine.priors import Prior, load_prior
from engine.priors.wording import cut_by, tokens_read
from engine.prompts import PLAIN, up_to_class
from engine.tokens.table import TokenTable, placeholders


@pytest.fixture(scope="module")
def prior() -> Prior:
    return load_prior("embedded", device="cpu")


LONG = "a detailed hand drawn pencil sketch on old yellow paper of {a} {class}"


@pytest.mark.parametrize(
    "template",
    [
        LONG,
        "photograph " * 20 + "{class}",
        "a {{very}} rare picture, in oil on canvas, of {class}",
        "あ" * 30 + "{class}",
    ],
    ids=["spelt", "repeated", "braces", "letters"],
)
@pytest.mark.parametrize("learned", [False, True])
def test_a_prompt_that_loses_its_class_is_refused(
    prior: Prior, template: str, learned: bool
) -> None:
    with pytest.raises(
        ConfigError,
        match=r"does not read as far as the class \('dog', 'horse'\), expected the class",
    ):
        check_words(prior, ["dog", "horse"], template, learned)


@pytest.mark.parametrize(
    "template",
    ["{class}" + " on old yellow paper" * 4, "a sketch of {a} {class}, " + "fine " * 20],
)
def test_a_prompt_that_loses_its_end_is_warned_of(prior: Prior, template: str) -> None:
    with pytest.warns(
        PromptWarning, match=r"prompts of 'dog' are longer than .* reads with clip: their ends"
    ):
        check_words(prior, ["dog"], template, False)


def test_tokens_of_other_classes_alone_are_warned_of() -> None:
    def table(*classes: int) -> TokenTable:
        labels = tuple("abc"[number] for number in classes)
        return TokenTable(
            rows=torch.zeros(len(classes), 4),
            encoders={"clip": 4},
            classes=classes,
            labels=labels,
            names=placeholders(labels),
            prior="",
            classifier="",
        )

    with pytest.warns(PromptWarning, match="no effect: they are of 'b', and what is drawn is 'a'"):
        warn_of_no_token(table(1), [0], ["a"])
    with pytest.warns(PromptWarning, match="no effect: they are of no class, and what is drawn"):
        warn_of_no_token(table(), [0, 1], ["a", "b"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_no_token(table(1, 2), [0, 1], ["a", "b"])


def test_a_token_in_place_of_a_long_name_is_read(prior: Prior) -> None:
    long = "a very rare and unusual " * 4 + "dog"
    with pytest.raises(ConfigError, match="does not read as far as the class"):
        check_words(prior, [long], PLAIN, True)
    check_words(prior, [long], PLAIN, True, instead=True)


@pytest.mark.parametrize("template", [PLAIN, "a sketch of {a} {class}", "{class}"])
def test_prompts_that_are_read_and_names_that_are_known_pass_without_a_word(
    prior: Prior, template: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", PromptWarning)
        check_words(prior, ["dog", "elephant", "house", "guitar (2)"], template, False)
        check_words(
            prior, ["0", "n02084071", "xqzwv"], template, True
        )  # learned tokens say what is meant


@pytest.mark.parametrize(
    ("labels", "wording"),
    [
        (["0", "1"], "named by numbers ('0', '1'), of which prior"),
        (
            ["class 3", "LABEL_4", "cat-07", "c12"],
            "named by numbers ('class 3', 'LABEL_4', 'cat-07', 'c12')",
        ),
        (["n02084071", "n01440764"], "by ids of WordNet ('n02084071', 'n01440764')"),
        (["n01440764"], "ImageNet calls them 'tench': set `labels` to these words"),
        (
            ["n01440764", "n99999999"],
            "does not know: set `labels` to the words that they stand for",
        ),
        (
            ["toaster", "golden retriever", "dog"],
            "does not know the words of 'toaster', 'golden retriever' and spells",
        ),
        (["cls_a7f3b2"], "does not know the words of 'cls_a7f3b2'"),
        (["собака"], "does not know the words of 'собака'"),
        ([f"zxq{n}" for n in range(8)], "'zxq4' and 3 more"),
    ],
    ids=["digits", "numbered", "ids", "id", "unknown id", "unseen", "hash", "alphabet", "many"],
)
def test_names_that_the_prior_cannot_know_are_said_before_the_run(
    prior: Prior, labels: list, wording: str
) -> None:
    with pytest.warns(PromptWarning) as told:
        check_words(prior, labels, PLAIN, False)
    assert any(wording in str(one.message) for one in told)


def test_an_encoder_reads_no_more_than_its_call_asks_for(prior: Prior) -> None:
    (encoder,) = prior.text_encoders()
    assert tokens_read(prior, encoder) == encoder.tokenizer.model_max_length
    assert cut_by(prior, "dog " * 40) == ["clip"]
    assert cut_by(prior, "dog") == []


def test_the_beginning_of_a_template_ends_with_its_class() -> None:
    assert up_to_class("{{no}} {a} {class}, {{class}} in {a} frame") == "{{no}} {a} {class}"


def test_imagenet_names_stand_for_ids_and_for_a_thousand_outputs() -> None:
    known = imagenet_names()
    assert len(known) == len({*known.values()}) == 1000
    assert next(iter(known)) == "n01440764"
    assert list(known.values())[281] == "tabby"
    classifier = load_classifier("arch:resnet18", labels=["imagenet"], device="meta")
    assert classifier.labels == tuple(known.values())
