"""Learning in cohorts: the classes that learn side by side, one file each, so that many processes share a run.

    <out>.cohorts/start.json             the word that all tokens start from, tried once, and the kind of machine
    <out>.cohorts/00007.safetensors      the end of cohort 7
    <out>.cohorts/00007.progress         what it has learned so far

A cohort's end depends on the request and the start word alone, so the file that all cohorts are joined into has the
bytes of a run in one process on the same kind of machine.
"""

import json
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from engine.datasets.run_record import CHECKSUM, checksum
from engine.datasets.shared import check_kind
from engine.errors import TokenFileError
from engine.events import Events, Noted
from engine.files import create_whole, make_folder, read_object, write_whole
from engine.locks import InUseError, locked_file
from engine.memory.costs import LEARNING
from engine.methods.drawing import Drawing
from engine.methods.kind import Kind, kind_of
from engine.runners.token_epochs import begin, learn_rows
from engine.runners.token_record import (
    check_same_run,
    described,
    packed,
    progress_of,
    resumed,
    table_of,
)
from engine.settings import TokenLearning
from engine.tokens.files import read_tokens, save_tokens
from engine.tokens.optimise import cohorts
from engine.tokens.state import Outcome, TokenState
from engine.tokens.table import TokenTable

START = "start.json"
WAIT = 1.0
"""Seconds between two looks at whether the word is found, or a cohort free."""
LOOKS = 5
"""At a cohort that another process learns, whose killed worker may not have let go of it yet."""


class CohortLearner:
    """The cohorts of a run, begun or joined. Any number of processes may learn them at once.

    Args:
        drawing: of the run, with room for learning.
        learning: how tokens are learned.
        out: the file that all cohorts are joined into.
        events: where the run reports.
        mixed: whether machines of another kind may join.

    Raises:
        OutputError: the folder of the cohorts belongs to another run.
        OtherKindError: another kind of machine began the run.
    """

    def __init__(
        self, drawing: Drawing, learning: TokenLearning, out: Path, events: Events, mixed: bool
    ) -> None:
        drawing.micro_batches.fixed = True
        self.drawing, self.learning, self.out, self.events = drawing, learning, out, events
        self.run = described(drawing, learning)
        self.kind = learning_kind(drawing)
        self.folder = folder_of(out)
        make_folder(self.folder)
        self.start = self._shared_start(mixed)
        self.ranges = self._ranges()
        self.files = [
            self.folder / f"{number:05d}.safetensors" for number in range(len(self.ranges))
        ]
        self._done()  # so that a damaged one is found before anything is learned

    def missing(self) -> list[int]:
        """The numbers of the cohorts that are not learned, ascending."""
        return [number for number, file in enumerate(self.files) if not file.exists()]

    def classes_in(self, numbers: Sequence[int]) -> int:
        """How many classes some cohorts have together."""
        return sum(len(self.ranges[number]) for number in numbers)

    def learn(self, number: int, also: bool = False) -> None:
        """Learn a cohort to its end and write it, going on from what another process kept of it.

        also: learn it even where another process still does, without keeping epochs. Raises InUseError otherwise.
        """
        for looks_left in reversed(range(LOOKS if also else 1)):
            if self._is_learned(number):
                return
            try:
                with locked_file(self.files[number]):
                    self._learn(number, keep=True)
                    return
            except InUseError:
                if not also:
                    raise
            if looks_left:
                time.sleep(WAIT)
        self._learn(number, keep=False)

    def table(self) -> TokenTable:
        """The tokens that are learned by now. Where these are all, writes `out` and deletes the cohorts."""
        done = self._done()
        if self.out.exists():  # another process learned the last one meanwhile
            delete_unfinished(self.out)
            return read_tokens(self.out)
        state = TokenState.joined(done) if done else self.start.part(range(0))
        table = table_of(self.drawing, state, self.run)
        if len(done) == len(self.files):
            save_tokens(table, self.out)
            delete_unfinished(self.out)
        return table

    def _done(self) -> list[TokenState]:
        """The ends of the cohorts that are learned; none if `out` was written meanwhile. Raises as `resumed` does."""
        device = self.drawing.prior.device
        try:
            return [resumed(file, self.run, device) for file in self.files if file.exists()]
        except TokenFileError:
            if not self.out.exists():
                raise
            return []

    def _learn(self, number: int, keep: bool) -> None:
        progress = cohort_progress(self.out, number)
        if self._is_learned(number):  # by who held the lock until now
            return
        state = self.start.part(self.ranges[number])
        try:
            if progress.exists():
                state = resumed(progress, self.run, self.drawing.prior.device)
        except TokenFileError:
            if progress.exists():  # else whoever learned it ended just now
                raise
        kept = progress if keep else None
        learn_rows(self.drawing, self.learning, self.run, state, kept, self.events, self.kind)
        if not self.out.exists():
            create_whole(self.files[number], packed(state, self.run))
        if keep:
            progress.unlink(missing_ok=True)

    def _is_learned(self, number: int) -> bool:
        return self.out.exists() or self.files[number].exists()

    def _ranges(self) -> list[range]:
        """The rows of each cohort."""
        size = self.learning.side_by_side or self.drawing.sampling.batch
        return cohorts(len(self.drawing.classes), size)

    def _shared_start(self, mixed: bool) -> TokenState:
        """Where all tokens start: tried by the first process, for which the others wait."""
        path, state, waited = self.folder / START, None, False
        while not path.exists():
            try:
                with locked_file(path):
                    if not path.exists():
                        word = self._taken_over()
                        state = begin(self.drawing, self.learning, self.events, word)
                        found = {"word": state.word, "run": self.run, "kind": self.kind.to_json()}
                        found[CHECKSUM] = checksum(found)
                        create_whole(path, json.dumps(found, sort_keys=True).encode())
            except InUseError as error:
                if not waited:
                    self.events.emit(Noted(f"waiting for the word that tokens start from: {error}"))
                waited = True
                time.sleep(WAIT)
        remedy = "delete it and run the same command again"
        there = read_object(path, remedy)
        kept = there.pop(CHECKSUM, None)  # files of earlier versions have none
        words = isinstance(there.get("word"), str) and isinstance(there.get("run"), dict)
        if not words or kept not in (None, checksum(there)):
            raise TokenFileError(
                f"{path} is damaged, expected the word that tokens start from: {remedy}."
            )
        check_same_run(self.folder, there["run"], self.run)
        if not mixed and "kind" in there:
            check_kind(str(self.folder), there["kind"], self.kind.to_json())
        if state is not None and state.word == there["word"]:
            return state
        return begin(self.drawing, self.learning, self.events, there["word"])

    def _taken_over(self) -> str | None:
        """Divide what one process kept of the file into cohorts. Returns its word; None where there is nothing."""
        kept = progress_of(self.out)
        if not kept.exists():
            return None
        state = resumed(kept, self.run, self.drawing.prior.device)
        begun = [
            number
            for number, rows in enumerate(self._ranges())
            if len(state.those(Outcome.WAITING, rows)) < len(rows)
        ]
        for number in begun:
            part = state.part(self._ranges()[number])
            if number == begun[-1]:  # the others are learned
                part.joint = state.joint
            write_whole(cohort_progress(self.out, number), packed(part, self.run))
        return state.word


def folder_of(out: Path) -> Path:
    """Where the cohorts are kept until all of them are there."""
    return out.with_name(f"{out.name}.cohorts")


def cohort_progress(out: Path, number: int) -> Path:
    """Where what is learned of a cohort is kept until its end."""
    return folder_of(out) / f"{number:05d}.progress"


def delete_unfinished(out: Path) -> None:
    """Delete what was kept of a file until it was there."""
    progress_of(out).unlink(missing_ok=True)
    shutil.rmtree(folder_of(out), ignore_errors=True)


def tidy(out: Path) -> None:
    """As `delete_unfinished`, for a file that is there, unless another process still writes it."""
    if progress_of(out).exists() or folder_of(out).exists():
        with suppress(InUseError), locked_file(out):
            delete_unfinished(out)


def learning_kind(drawing: Drawing) -> Kind:
    """The kind of this process for learning, whose canary also says how many images go through its phases at once."""
    kind, batch = kind_of(drawing), drawing.sampling.batch
    sizes = [min(kind.micro_batch.get(phase) or batch, batch) for phase in LEARNING]
    return replace(kind, canary="-".join(map(str, [kind.canary, *sizes])))
