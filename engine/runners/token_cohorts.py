"""Learning in cohorts: the classes that learn side by side, one file each, so that many processes share a run.

    <out>.cohorts/start.json             the word that all tokens start from, tried once
    <out>.cohorts/00007.safetensors      the end of cohort 7
    <out>.cohorts/00007.progress         what it has learned so far

A cohort's end depends on the request and the start word alone, so the file that all cohorts are joined into has the
bytes of a run in one process.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import TokenFileError
from engine.events import EpochEnded, Events
from engine.files import create_whole, locked_file, make_folder, read_object, write_whole
from engine.memory.apply import applied
from engine.methods.drawing import Drawing
from engine.runners.start_word import best_word, looked_at, trial_images
from engine.runners.token_record import check_same_run, packed, resumed, table_of
from engine.runners.token_source import TokenSource
from engine.settings import TokenLearning
from engine.tokens.attached import attached
from engine.tokens.files import read_tokens, save_tokens
from engine.tokens.optimise import cohorts, learn
from engine.tokens.state import TokenEpoch, TokenState, initial_rows, word_norms
from engine.tokens.table import TokenTable

EPOCHS = "epochs"
"""The task that counts them, of all classes."""
START = "start.json"


def learn_rows(
    drawing: Drawing,
    learning: TokenLearning,
    run: Mapping[str, Any],
    state: TokenState,
    progress: Path | None,
    events: Events,
) -> None:
    """Learn the tokens of a state to their end, keeping it in `progress` after each epoch."""

    def keep() -> None:
        if progress is not None:
            write_whole(progress, packed(state, run))

    keep()
    table = table_of(drawing, state, run, every_class=True)
    drawing.parts.events = events
    total = most_epochs(learning) * len(state.classes)
    with (
        attached(drawing.prior, table) as speaking,
        applied(drawing.plan, speaking) as phase,
        events.task(EPOCHS, total, int(state.epochs.sum())),
    ):
        source = TokenSource(drawing, speaking, learning, phase, events)
        limits = _limits(drawing, learning, table)
        for epochs in learn(state, source, learning, drawing.sampling.batch, limits):
            keep()
            for epoch in epochs:
                events.emit(_ended(epoch, drawing))


def learn_cohorts(
    drawing: Drawing,
    learning: TokenLearning,
    run: Mapping[str, Any],
    out: Path,
    share: tuple[int, int],
    events: Events,
) -> TokenTable:
    """Learn the cohorts of a share; write `out` where they were the last. Returns the tokens that are learned by now.

    share: (number from 0, how many). Raises OutputError where the folder of the cohorts belongs to another run, or
    another process learns one of the share's.
    """
    folder = out.with_name(f"{out.name}.cohorts")
    make_folder(folder)
    start = _shared_start(folder, drawing, learning, run, events)
    ranges = cohorts(len(start.classes), drawing.sampling.batch)
    files = [folder / f"{number:05d}.safetensors" for number in range(len(ranges))]
    for number in range(share[0], len(ranges), share[1]):
        file = files[number]
        if file.exists():
            continue
        with locked_file(file):
            progress = file.with_suffix(".progress")
            device = drawing.prior.device
            state = (
                resumed(progress, run, device) if progress.exists() else start.part(ranges[number])
            )
            learn_rows(drawing, learning, run, state, progress, events)
            write_whole(file, packed(state, run))
            progress.unlink()
    try:
        done = [resumed(file, run, drawing.prior.device) for file in files if file.exists()]
    except TokenFileError:
        if not out.exists():
            raise
    if out.exists():  # another process learned the last one meanwhile, and cleans up
        return read_tokens(out)
    table = table_of(drawing, TokenState.joined(done), run)
    if len(done) == len(files):
        save_tokens(table, out)
        shutil.rmtree(folder, ignore_errors=True)
    return table


def begin(
    drawing: Drawing, learning: TokenLearning, events: Events, word: str | None = None
) -> TokenState:
    """Where learning begins; what the trial of words took is in the count of the classes that it looked at.

    word: what an earlier trial chose; None to try now.
    """
    init = word or learning.init
    if init == "words":
        init = best_word(drawing, learning.styles, events)
    rows = initial_rows(
        drawing.prior, drawing.classes, drawing.classifier.labels, init, drawing.seed
    )
    state = TokenState.at_start(drawing.classes, rows, learning.optimizer, init)
    seen = list(looked_at(range(len(state.classes))))
    state.denoiser_forward[seen] += drawing.sampling.evaluations * trial_images(learning)
    return state


def most_epochs(learning: TokenLearning) -> int:
    """How many epochs of a class are reported at most, with that of the plain prompt and that of the check."""
    return learning.epochs + learning.skip_passing + (learning.check_images > 0)


def _shared_start(
    folder: Path,
    drawing: Drawing,
    learning: TokenLearning,
    run: Mapping[str, Any],
    events: Events,
) -> TokenState:
    """Where all tokens start: tried by the first process, read by the others."""
    path = folder / START
    state = None
    if not path.exists():
        state = begin(drawing, learning, events)
        create_whole(path, json.dumps({"word": state.word, "run": run}, sort_keys=True).encode())
    there = read_object(path, "delete it and run the same command again")
    check_same_run(folder, there["run"], run)
    return state or begin(drawing, learning, events, there["word"])


def _limits(
    drawing: Drawing, learning: TokenLearning, table: TokenTable
) -> list[tuple[slice, float]]:
    """How long a row may be in each text encoder's columns; none without a cap."""
    if not learning.norm_cap:
        return []
    lengths = word_norms(drawing.prior, drawing.classifier.labels)
    return [(span, learning.norm_cap * lengths[key]) for key, span in table.spans().items()]


def _ended(epoch: TokenEpoch, drawing: Drawing) -> EpochEnded:
    return EpochEnded(
        task=EPOCHS,
        class_index=epoch.class_index,
        label=drawing.classifier.labels[epoch.class_index],
        epoch=epoch.epoch,
        accuracy=epoch.accuracy,
        loss=epoch.loss,
    )
