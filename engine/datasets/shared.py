"""Writing a data set in parts: what several processes begin together, each checking that it is the same run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.datasets.names import LABELS, check_labels, labels_json
from engine.datasets.parts import (
    DIVISION,
    PARTS,
    Division,
    division_bytes,
    done_parts,
    read_division,
    stem,
    write_part,
)
from engine.datasets.run_record import RUN, check_record, parsed_run, run_bytes, run_digest
from engine.datasets.store import Store, open_store, read
from engine.errors import OutputError
from engine.types import Sample

KINDS = "kinds"


class OtherKindError(OutputError):
    """A worker would make other images than the first one of a run does."""


class SharedDataset:
    """A data set in parts, begun or joined. Any number of processes may write into it at once.

    Args:
        place: folder or URL.
        made: everything that the images depend on, as JSON values (see `run_record`).
        labels: class number -> label of the classes that are made.
        division: of the request's groups.
        kind: of this worker (`engine.methods.kind`), as JSON values.
        mixed: whether workers of another kind may join.

    Raises:
        OtherKindError: another kind of worker makes the run.
        OutputError: the place holds something else or a run with other settings, or cannot be written.
    """

    def __init__(
        self,
        place: Path | str,
        made: Mapping[str, Any],
        labels: Mapping[int, str],
        division: Division,
        kind: Mapping[str, Any],
        mixed: bool = False,
    ) -> None:
        check_labels(labels)
        self.store = open_store(place)
        self.division = division
        self.kind = kind
        names = {str(number): labels[number] for number in sorted(labels)}
        run = run_digest(made, names)
        _refuse_foreign(self.store)
        self._check_lost(run, mixed)
        if not self.store.create(RUN, run_bytes(made, names, {})):
            there = parsed_run(read(self.store, RUN), f"{self.store}/{RUN}")
            check_record(str(self.store), there, made, names)
            run = run_digest(there.made, there.labels)  # models may have other names here
        self.store.create(LABELS, labels_json(labels))
        if not self.store.create(DIVISION, division_bytes(division, kind, run)):
            divided, other, _ = read_division(self.store)
            if divided != division:
                raise OutputError(
                    f"{self.store} is divided into {divided.parts} parts and this version would make {division.parts}, "
                    "expected the same: finish it with the version that began it."
                )
            if not mixed:
                check_kind(str(self.store), other, kind)
        self.store.create(f"{KINDS}/{kind['canary']}.json", _json(kind))

    def _check_lost(self, run: str, mixed: bool) -> None:
        """Raise OutputError where parts have lost a record that this process cannot write again as it was."""
        # Asked for in reverse order of writing: another process may be writing them now.
        has_division = self.store.size(DIVISION) is not None
        if has_division and self.store.size(RUN) is None:
            if read_division(self.store).run != run:
                raise OutputError(
                    f"{self.store} has parts and no {RUN}, and {DIVISION} does not say that they were begun with these "
                    "settings and models, expected the same, by the same names, to write it again: use them, put a "
                    "copy back, or choose another folder."
                )
        elif not has_division and not mixed:
            kinds = self.store.names(KINDS)
            if (
                self.store.size(DIVISION) is None
                and kinds
                and f"{KINDS}/{self.kind['canary']}.json" not in kinds
            ):
                raise OtherKindError(
                    f"{self.store} has parts and no {DIVISION}, and a worker of another kind made them, expected one "
                    "of that kind to write it again: run this on such a machine, or put a copy back."
                )

    def missing(self) -> list[int]:
        """The numbers of the parts that are not done, ascending."""
        done = done_parts(self.store)
        return [part for part in range(self.division.parts) if part not in done]

    def is_done(self, part: int) -> bool:
        """Whether a part is done by now, by any process."""
        return self.store.size(f"{stem(part)}.parquet") is not None

    def write(self, part: int, samples: Sequence[Sample]) -> bool:
        """Write a part. Returns whether this call made it done."""
        return write_part(self.store, part, samples, self.kind["canary"])


def check_kind(where: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise OtherKindError, naming what differs, where a worker would make other images than the first one does."""
    if there["canary"] == here["canary"]:
        return
    if not all(kind.get("reproducible", True) for kind in (there, here)):
        raise OtherKindError(
            f"{where} is made by workers that give other bytes each time, as a second try of its first steps showed, "
            "expected kernels that are deterministic. Use `mixed`, which allows several kinds: what they make is of "
            "the same distribution."
        )
    differing = [
        f"{name} is {there.get(name)!r} there and {here[name]!r} here"
        for name in here
        if name not in ("canary", "reproducible") and there.get(name) != here[name]
    ]
    raise OtherKindError(
        f"{where} is made by workers of another kind ({'; '.join(differing) or 'nothing that is recorded differs'}): a "
        "few steps on this one gave other bytes. Expected the same kind: use equal machines, threads and `memory`, or "
        "allow several kinds with `mixed`: what they make is of the same distribution."
    )


def _refuse_foreign(store: Store) -> None:
    """Raise OutputError where a folder holds images of a run in one process, or something else."""
    if store.size(DIVISION) is not None or not (names := store.names("")):
        return
    if RUN in names and any(name.startswith(f"{PARTS}/") for name in names):
        return  # DIVISION was lost
    begun = {RUN, LABELS}  # by a process that has not written DIVISION yet
    foreign = sorted(name for name in names if name not in begun)
    if foreign and store.size(DIVISION) is None:  # else a process wrote it in between
        raise OutputError(
            f"{store} holds files that are no data set in parts ({', '.join(foreign[:3])}"
            f"{', ...' * (len(foreign) > 3)}), expected a new or empty folder, or such a data set: choose another one."
        )


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"
