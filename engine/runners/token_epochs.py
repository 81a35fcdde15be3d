"""Learning the tokens of a state: where it begins, its epochs, each kept and reported."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.events import EpochEnded, Events
from engine.files import write_whole
from engine.memory.apply import applied
from engine.methods.drawing import Drawing
from engine.methods.kind import Kind, kind_of
from engine.runners.start_word import best_word, looked_at, trial_images
from engine.runners.token_record import kind_in_words, packed, table_of
from engine.runners.token_source import TokenSource
from engine.settings import TokenLearning
from engine.tokens.attached import attached
from engine.tokens.optimise import learn
from engine.tokens.state import TokenEpoch, TokenState, initial_rows, word_norms
from engine.tokens.table import TokenTable

EPOCHS = "epochs"
"""The task that counts them, of all classes."""


def learn_rows(
    drawing: Drawing,
    learning: TokenLearning,
    run: Mapping[str, Any],
    state: TokenState,
    progress: Path | None,
    events: Events,
    kind: Kind | None = None,
) -> None:
    """Learn the tokens of a state to their end, keeping it in `progress` after each epoch.

    kind: of this process; None to find out what is known of it without a try.
    """

    def keep() -> None:
        if progress is not None:
            write_whole(progress, packed(state, run))

    keep()
    table = table_of(drawing, state, run, every_class=True)
    drawing.micro_batches.events = events
    of = (kind or kind_of(drawing, tried=False)).to_json()
    total = most_epochs(learning) * len(state.classes)
    with (
        attached(drawing.prior, table) as speaking,
        applied(drawing.plan, speaking) as phase,
        events.task(EPOCHS, total, int(state.epochs.sum())),
    ):
        source = TokenSource(drawing, speaking, learning, phase, events)
        limits = _limits(drawing, learning, table)
        for epochs in learn(state, source, learning, drawing.sampling.batch, limits):
            for epoch in epochs:
                state.note_kind(epoch.class_index, kind_in_words(of, drawing.micro_batches.sizes))
            keep()
            for epoch in epochs:
                events.emit(_ended(epoch, drawing))


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
