"""The word that tokens start from: the classifier's own style, found without an image of it."""

from dataclasses import replace

import pytest
import torch

from engine.classifiers import load_classifier
from engine.events import Event, Events, Stepped
from engine.priors import load_prior
from engine.runners import start_word
from engine.runners import token_epochs as learning_job
from engine.runners.asking import asked
from engine.runners.learn_tokens import learn_tokens
from engine.runners.start_word import IMAGES_PER_CLASS, LOOKED_AT, TRIAL, WORD_SEED, best_word
from engine.runners.token_source import LEARNING_IMAGES
from engine.runners.trial import Trial
from engine.settings import Alignment, Sampling, TokenLearning
from engine.settings.methods import Plain
from engine.tokens.state import initial_rows

WORDS = TokenLearning().styles


def seen_as(gap: float | None, cross_entropy: float = 0.0) -> Trial:
    return Trial(
        images=1, l_bn=1.0, gap=gap, cross_entropy=cross_entropy, recognised=1.0, agreement=1.0
    )


@pytest.mark.slow
def test_a_classifier_of_sketches_starts_from_sketched() -> None:
    """On the embedded models, of classes that sketches show clearly."""
    drawing = asked(
        "embedded:sketch",
        "embedded",
        ["elephant", "horse"],
        method="plain",
        sampling=Sampling(steps=10),
    ).prepare()
    assert best_word(drawing, WORDS) == "sketched"


def test_images_are_plain_few_and_under_the_job_s_own_prompt(monkeypatch) -> None:
    drawing = asked(
        "embedded:photo",
        alignment=Alignment(),
        sampling=Sampling(steps=2, prompt="an image of {a} {class}"),
    ).prepare()
    many = replace(drawing, classes=tuple(range(7)) * 100)
    seen = []

    def observe(drawing, events, task):
        seen.append(drawing)
        return seen_as(4.0 - len(seen))

    monkeypatch.setattr(start_word, "observe", observe)
    assert best_word(many, ["painted", "sketched"]) == "sketched"
    assert [drawing.prompt_of(1) for drawing in seen] == [
        "an image of an elephant",
        "an image of an painted elephant",
        "an image of an sketched elephant",
    ]
    assert all(
        len(drawing.classes) <= LOOKED_AT and drawing.request.images_per_class == IMAGES_PER_CLASS
        for drawing in seen
    )
    assert all(drawing.alignment is None and not drawing.joint for drawing in seen)
    assert {drawing.seed for drawing in seen} == {many.seed + WORD_SEED}
    assert best_word(many, ["alone"]) == "alone"
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("gap", "cross_entropy", "word"),
    [
        ((-1.0, -2.0, -1.9), (0.5, 2.0, 0.1), "painted"),  # the nearest, whatever the classes say
        ((-1.0, -0.5, -1.1), (0.5, 0.0, 2.0), "sketched"),
        ((-1.0, -0.5, -1.0), (0.5, 0.0, 0.0), "a"),
        ((None, None, None), (0.5, 0.6, 0.4), "sketched"),  # a classifier without statistics
    ],
)
def test_a_word_that_leads_away_from_the_domain_is_none_to_start_from(
    gap, cross_entropy, word, monkeypatch
) -> None:
    found = {
        f"a{style} dog": seen_as(*values)
        for style, *values in zip(("", " painted", " sketched"), gap, cross_entropy, strict=True)
    }
    monkeypatch.setattr(start_word, "observe", lambda drawing, *_: found[drawing.prompt_of(0)])
    drawing = asked("embedded:photo", method="plain", sampling=Sampling(steps=2)).prepare()
    assert best_word(drawing, ["painted", "sketched"]) == word


def test_every_token_starts_from_the_word(monkeypatch) -> None:
    monkeypatch.setattr(learning_job, "best_word", lambda drawing, words, events: words[1])
    learning = TokenLearning(
        epochs=1,
        images_per_epoch=1,
        steps=2,
        updates_per_trajectory=1,
        learning_rate=1e-6,
        target_accuracy=1.0,
        skip_passing=False,
        init="words",
        words="photo, cartoon",
        check_images=0,
    )
    prior = load_prior("embedded")
    classifier = load_classifier("embedded:photo")
    table = learn_tokens(
        classifier,
        prior,
        ["dog", "house"],
        learning,
        method=Plain(sampling=Sampling(steps=2, batch=2)),
    )
    start = initial_rows(prior, (0, 5), classifier.labels, "cartoon", 0)
    assert torch.allclose(table.rows, start, atol=1e-4)
    assert [(end.start, end.moved) for end in table.training.values()] == [("cartoon", True)] * 2
    assert not torch.allclose(
        start[0], initial_rows(prior, (0,), classifier.labels, "photo", 0)[0], atol=1e-2
    )


@pytest.mark.slow
@pytest.mark.parametrize("cfg", [1.0, 5.0])
def test_the_trial_is_told_step_by_step_and_counted_by_class(cfg, monkeypatch) -> None:
    """3 images of both classes, of 2 words and of none, 2 steps, and with CFG two evaluations in each."""
    monkeypatch.setattr(start_word, "IMAGES_PER_CLASS", 3)
    learning = TokenLearning(
        epochs=1,
        images_per_epoch=1,
        steps=2,
        updates_per_trajectory=1,
        skip_passing=False,
        target_accuracy=1.0,  # never exceeded
        init="words",
        words="photo, cartoon",
        check_images=0,
    )
    tried, learned = [], []

    def watch(event: Event) -> None:
        if isinstance(event, Stepped):
            {TRIAL: tried, LEARNING_IMAGES: learned}[event.task].append(event.images)

    def costs(learning: TokenLearning) -> list[int]:
        table = learn_tokens(
            "embedded:photo",
            "embedded",
            ["dog", "house"],
            learning,
            method=Plain(sampling=Sampling(steps=2, cfg=cfg, batch=4)),
            events=Events(watch),
        )
        return [end.denoiser_forward for end in table.training.values()]

    without = costs(replace(learning, init="a"))
    assert tried == []
    steps_of_learning = len(learned)
    assert costs(learning) == [cost + 3 * 3 * 2 * (1 if cfg == 1 else 2) for cost in without]
    assert sum(tried) == 3 * 2 * 3 * 2
    assert len(learned) == 2 * steps_of_learning


def test_of_many_classes_a_few_are_looked_at_evenly() -> None:
    assert list(start_word.looked_at(range(LOOKED_AT))) == [*range(LOOKED_AT)]
    assert list(start_word.looked_at(range(40))) == [*range(0, 40, 3)]
    assert start_word.trial_images(TokenLearning()) == (len(WORDS) + 1) * IMAGES_PER_CLASS
    assert start_word.trial_images(TokenLearning(words="alone")) == 0


@pytest.mark.parametrize(
    ("init", "words", "styles"), [("words", "a b,c ", ("a b", "c")), ("a", ",", ())]
)
def test_words_are_told_apart_by_commas(init, words, styles) -> None:
    assert TokenLearning(init=init, words=words).styles == styles
