"""Tokens learned in shares have the bytes of one run; two processes do not learn one file; what they learn it on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.classifiers import Classifier
from engine.errors import ConfigError, OutputError, TokenFileError
from engine.events import EpochEnded, Event, Events
from engine.locks import InUseError, locked_file
from engine.memory.budget import MemoryWarning
from engine.memory.micro_batch import MicroBatches
from engine.priors import Prior
from engine.runners.learn_tokens import learn_tokens
from engine.settings import Sampling, TokenLearning
from engine.tokens.files import read_tensors, read_tokens

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


QUICK = replace(LEARNING, init="class name", check_images=0)
"""With no trial of words and no check."""


def learn(
    classifier: Classifier,
    prior: Prior,
    out: Path,
    share: str | None = None,
    learning: TokenLearning = LEARNING,
    **options,
):
    return learn_tokens(
        classifier,
        prior,
        CLASSES,
        learning,
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
def test_a_share_beyond_the_number_of_cohorts_learns_nothing_and_leaves_the_rest_to_others(
    classifier: Classifier, small_prior: Prior, tmp_path: Path
) -> None:
    """It comes first, when nothing is learned yet."""
    out = tmp_path / "t.safetensors"
    assert learn(classifier, small_prior, out, "9/9").training == {}
    assert not out.exists()
    assert len(learn(classifier, small_prior, out, "1/1").training) == len(CLASSES)
    assert out.exists()


def test_a_damaged_start_is_named(
    classifier: Classifier, small_prior: Prior, tmp_path: Path
) -> None:
    out = tmp_path / "t.safetensors"
    learn(classifier, small_prior, out, "9/9", QUICK)
    path = tmp_path / "t.safetensors.cohorts" / "start.json"
    there = json.loads(path.read_text())
    unchecked = {"run": there["run"], "word": 5}
    for damaged in ({}, {**there, "word": "class namf"}, unchecked):
        path.write_text(json.dumps(damaged))
        with pytest.raises(TokenFileError, match=r"start.json is damaged, expected the word"):
            learn(classifier, small_prior, out, "9/9", QUICK)


@pytest.mark.parametrize("kept", [slice(None, -9), slice(None, 30)])
def test_a_damaged_cohort_is_named_before_another_is_learned(
    classifier: Classifier, small_prior: Prior, tmp_path: Path, kept: slice
) -> None:
    out, seen = tmp_path / "t.safetensors", []
    learn(classifier, small_prior, out, "1/3", QUICK)
    path = tmp_path / "t.safetensors.cohorts" / "00000.safetensors"
    path.write_bytes(path.read_bytes()[kept])
    with pytest.raises(
        TokenFileError, match=r"00000.safetensors is damaged \(it .*: delete it"
    ) as of:
        learn(classifier, small_prior, out, "2/3", QUICK, events=Events(seen.append))
    assert "give the path" not in str(of.value)
    assert not any(isinstance(event, EpochEnded) for event in seen)
    path.unlink()
    learn(classifier, small_prior, out, "1/1", QUICK)
    assert out.exists()


def test_a_cut_share_goes_on_where_it_stopped(
    classifier: Classifier, small_prior: Prior, tmp_path: Path
) -> None:
    learn(classifier, small_prior, tmp_path / "one.safetensors", learning=QUICK)
    out = tmp_path / "cut.safetensors"
    with pytest.raises(Stop):
        learn(classifier, small_prior, out, "1/1", QUICK, events=Events(cut))
    progress = tmp_path / "cut.safetensors.cohorts" / "00000.progress"
    tensors, _ = read_tensors(progress)
    assert tensors["epochs"].tolist() == [1, 1]
    learn(classifier, small_prior, out, "1/1", QUICK)
    assert out.read_bytes() == (tmp_path / "one.safetensors").read_bytes()


def test_a_share_of_another_run_is_refused(
    classifier: Classifier, small_prior: Prior, tmp_path: Path
) -> None:
    out = tmp_path / "tokens.safetensors"
    learn(classifier, small_prior, out, "1/3", QUICK)
    with pytest.raises(OutputError, match="seed is 0 there and 5 here"):
        learn(classifier, small_prior, out, "2/3", QUICK, seed=5)
    with pytest.raises(ConfigError, match="without out"):
        learn_tokens(classifier, small_prior, CLASSES, LEARNING, share="1/2")


class Stop(Exception):
    """Where a test cuts a run."""


def cut(event: Event) -> None:
    if isinstance(event, EpochEnded):
        raise Stop


@pytest.mark.parametrize(("first", "second"), [(None, "1/1"), ("1/1", None)])
def test_one_process_and_shares_go_on_with_what_the_other_began(
    classifier: Classifier,
    small_prior: Prior,
    tmp_path: Path,
    first: str | None,
    second: str | None,
) -> None:
    calm: list[Event] = []
    learn(
        classifier,
        small_prior,
        tmp_path / "one.safetensors",
        events=Events(calm.append),
        learning=QUICK,
    )
    out, seen = tmp_path / "cut.safetensors", []
    with pytest.raises(Stop):
        learn(classifier, small_prior, out, first, events=Events(cut), learning=QUICK)
    learn(classifier, small_prior, out, second, events=Events(seen.append), learning=QUICK)
    assert out.read_bytes() == (tmp_path / "one.safetensors").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {out.name, "one.safetensors"}
    epochs = [[event for event in of if isinstance(event, EpochEnded)] for of in (calm, seen)]
    assert epochs[1] == epochs[0][2:]  # an epoch of both classes of the first cohort was kept


def test_a_share_lets_other_shares_learn_and_refuses_one_process(
    classifier: Classifier, small_prior: Prior, tmp_path: Path
) -> None:
    out, met = tmp_path / "tokens.safetensors", []

    def meet(event: Event) -> None:
        if isinstance(event, EpochEnded) and not met:
            met.append(event)
            with pytest.raises(InUseError, match="in use by process"):
                learn(classifier, small_prior, out, learning=QUICK)
            met.append(learn(classifier, small_prior, out, "2/2", learning=QUICK))

    learn(classifier, small_prior, out, "1/2", events=Events(meet), learning=QUICK)
    assert len(met) == 2
    assert {path.name for path in tmp_path.iterdir()} == {out.name}


def test_what_a_kill_left_beside_a_finished_file_is_deleted_by_the_next_call(
    classifier: Classifier, small_prior: Prior, tmp_path: Path
) -> None:
    out = tmp_path / "tokens.safetensors"
    learn(classifier, small_prior, out, learning=QUICK)
    progress, folder = tmp_path / f"{out.name}.progress", tmp_path / f"{out.name}.cohorts"
    progress.touch()
    folder.mkdir()
    (folder / "00000.progress").touch()
    with locked_file(out):  # whoever is there may need them
        learn(classifier, small_prior, out, learning=QUICK)
    assert progress.exists()
    assert (folder / "00000.progress").exists()
    learn(classifier, small_prior, out, learning=QUICK)
    assert {path.name for path in tmp_path.iterdir()} == {out.name}


def test_a_file_says_what_it_was_learned_on(
    classifier: Classifier, small_prior: Prior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "tokens.safetensors"
    attempt, failed, ended = MicroBatches.attempt, [], []

    def attempted(parts: MicroBatches, name: str, images: int, work: Any) -> Any:
        def failing(size: int) -> Any:
            if name == "cat" and size > 1 and len(ended) >= 4 and not failed:
                failed.append(size)
                raise torch.OutOfMemoryError("CUDA out of memory")
            return work(size)

        return attempt(parts, name, images, failing)

    def stop_late(event: Event) -> None:
        if isinstance(event, EpochEnded):
            ended.append(event.class_index)
            if failed:
                raise Stop

    monkeypatch.setattr(MicroBatches, "attempt", attempted)
    with pytest.warns(MemoryWarning, match="phase 'cat'"), pytest.raises(Stop):
        learn(classifier, small_prior, out, events=Events(stop_late), learning=QUICK)
    monkeypatch.undo()
    monkeypatch.setattr("platform.machine", lambda: "another")
    learn(classifier, small_prior, out, learning=QUICK)
    table = read_tokens(out)
    begun, shrunk, other = table.kinds
    assert {name: begun[name] for name in begun if name != "micro_batches"} == {
        name: shrunk[name] for name in shrunk if name != "micro_batches"
    }
    assert shrunk["micro_batches"]["cat"] == failed[0] // 2
    assert begun["micro_batches"].get("cat") != failed[0] // 2
    assert other["processor"] == "another" != begun["processor"]
    assert begun["threads"] == torch.get_num_threads()
    found = {classifier.labels[number]: of.kinds for number, of in table.training.items()}
    assert [found[label] for label in CLASSES] == [(0,), (0,), (1, 2), (1, 2), (2,)]


def test_kinds_that_only_their_canaries_tell_apart_are_two(
    classifier: Classifier, small_prior: Prior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "tokens.safetensors"
    learn(classifier, small_prior, out, "1/2", mixed=True, learning=QUICK)
    monkeypatch.setattr("engine.methods.kind.canary_of", lambda _: "another")
    learn(classifier, small_prior, out, "2/2", mixed=True, learning=QUICK)
    first, other = read_tokens(out).kinds
    assert first.pop("canary") != other.pop("canary")
    assert first == other


@pytest.mark.parametrize("share", [None, "1/3"])
def test_two_processes_do_not_learn_one_file(
    classifier: Classifier, small_prior: Prior, tmp_path: Path, share: str | None
) -> None:
    out = tmp_path / "tokens.safetensors"
    held = out if share is None else tmp_path / "tokens.safetensors.cohorts" / "00000.safetensors"
    with locked_file(held), pytest.raises(OutputError, match="in use by process"):
        learn(classifier, small_prior, out, share)
    assert not out.exists()
