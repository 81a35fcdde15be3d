"""Tokens learned in shares have the bytes of one run; two processes do not learn one file."""

from pathlib import Path

import pytest

from engine.classifiers import Classifier
from engine.errors import ConfigError, OutputError, TokenFileError
from engine.events import EpochEnded, Event, Events
from engine.files import locked_file
from engine.priors import Prior
from engine.runners.learn_tokens import learn_tokens
from engine.settings import Sampling, TokenLearning
from engine.tokens.files import read_tensors

CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse")
LEARNING = TokenLearning(
    epochs=2,
    images_per_epoch=2,
    steps=0,
    updates_per_trajectory=1,
    learning_rate=0.05,
    target_accuracy=1.0,
    skip_passing=False,
    init="words",
    check_images=2,
)


def learn(classifier: Classifier, prior: Prior, out: Path, share: str | None = None, **options):
    return learn_tokens(
        classifier,
        prior,
        CLASSES,
        LEARNING,
        sampling=Sampling(steps=2, cfg=2.0, batch=2),
        memory="8GB",
        out=out,
        share=share,
        **options,
    )


@pytest.mark.slow
def test_shares_in_any_order_end_in_the_bytes_of_one_run(
    classifier: Classifier, small_prior: Prior, tmp_path: Path
) -> None:
    learn(classifier, small_prior, tmp_path / "one.safetensors")
    out = tmp_path / "shared.safetensors"
    counts = []
    for share in ("3/3", "1/3", "2/3"):
        table = learn(classifier, small_prior, out, share)
        counts.append(len(table.training))
        assert out.exists() == (share == "2/3")
    assert counts == [1, 3, 5]
    assert out.read_bytes() == (tmp_path / "one.safetensors").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {out.name, "one.safetensors"}


@pytest.mark.slow
def test_a_share_that_has_nothing_to_do_says_so(
    classifier: Classifier, small_prior: Prior, tmp_path: Path
) -> None:
    """More processes than cohorts: it comes first, when nothing is learned yet."""
    table = learn(classifier, small_prior, tmp_path / "t.safetensors", "9/9")
    assert table.training == {}
    assert table.rows.shape[0] == 0


def test_a_damaged_start_is_named(
    classifier: Classifier, small_prior: Prior, tmp_path: Path
) -> None:
    out = tmp_path / "t.safetensors"
    learn(classifier, small_prior, out, "9/9")
    (tmp_path / "t.safetensors.cohorts" / "start.json").write_text("{}")
    with pytest.raises(TokenFileError, match=r"start.json is damaged, expected the word"):
        learn(classifier, small_prior, out, "9/9")


def test_a_cut_share_goes_on_where_it_stopped(
    classifier: Classifier, small_prior: Prior, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def cut(event: Event) -> None:
        if isinstance(event, EpochEnded):
            raise Stop

    learn(classifier, small_prior, tmp_path / "one.safetensors")
    out = tmp_path / "cut.safetensors"
    with pytest.raises(Stop):
        learn(classifier, small_prior, out, "1/1", events=Events(cut))
    progress = tmp_path / "cut.safetensors.cohorts" / "00000.progress"
    tensors, _ = read_tensors(progress)
    assert tensors["epochs"].tolist() == [1, 1]
    learn(classifier, small_prior, out, "1/1")
    assert out.read_bytes() == (tmp_path / "one.safetensors").read_bytes()


def test_a_share_of_another_run_is_refused(
    classifier: Classifier, small_prior: Prior, tmp_path: Path
) -> None:
    out = tmp_path / "tokens.safetensors"
    learn(classifier, small_prior, out, "1/3")
    with pytest.raises(OutputError, match="seed is 0 there and 5 here"):
        learn(classifier, small_prior, out, "2/3", seed=5)
    with pytest.raises(ConfigError, match="without out"):
        learn_tokens(classifier, small_prior, CLASSES, LEARNING, share="1/2")


@pytest.mark.parametrize("share", [None, "1/3"])
def test_two_processes_do_not_learn_one_file(
    classifier: Classifier, small_prior: Prior, tmp_path: Path, share: str | None
) -> None:
    out = tmp_path / "tokens.safetensors"
    held = out if share is None else tmp_path / "tokens.safetensors.cohorts" / "00000.safetensors"
    with locked_file(held), pytest.raises(OutputError, match="in use by process"):
        learn(classifier, small_prior, out, share)
    assert not out.exists()
