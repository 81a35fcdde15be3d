"""One share of a run whose images many processes make: parts of it, into a place that all of them write to."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.datasets.parts import Division
from engine.datasets.shared import SharedDataset
from engine.events import Event, Events, Progressed
from engine.methods.base import Prepared
from engine.methods.drawing import IMAGES
from engine.methods.kind import kind_of
from engine.methods.models import Given, Models
from engine.methods.registry import prepare
from engine.request import Execution, Request
from engine.runners.base import SharingRunner
from engine.runners.local import check_models, made_by, reported
from engine.runners.summary import Summary
from engine.types import Sample


class ShareRunner(SharingRunner):
    """Makes the parts I, I + N, I + 2N, ... that are missing; see `engine.runners.base.Runner`."""

    def run(self, request: Request) -> Iterator[Sample]:
        """Load, check, begin or join the data set, then make the share's missing parts as the iterator is read."""
        return (sample for _, samples in self._parts(request) for sample in samples)

    def parts(self, request: Request) -> Iterator[tuple[int, int]]:
        """As `run`, but gives the number of each part, and of those of its images that this call made."""
        return ((part, len(samples)) for part, samples in self._parts(request))

    def _parts(self, request: Request) -> Iterator[tuple[int, list[Sample]]]:
        maker = PartMaker(request, self.execution, self.given, self.out, self.expected)
        number, count = self.execution.share_of()
        mine = range(number, maker.dataset.division.parts, count)
        missing = set(maker.dataset.missing())
        return self._made(maker, mine, [part for part in mine if part in missing])

    def _made(
        self, maker: "PartMaker", mine: range, missing: Sequence[int]
    ) -> Iterator[tuple[int, list[Sample]]]:
        total, left = maker.images_in(mine), maker.images_in(missing)
        summary = Summary(self.events, IMAGES, len(mine))
        began, before, made = summary.clock(), len(mine) - len(missing), 0

        def watch(event: Event) -> None:
            self.events.emit(event)
            seconds = summary.clock() - began
            summary.tick(before + made, seconds / made * (len(missing) - made) if made else None)

        events = Events(watch, losses=self.events.losses, previews=self.events.previews)
        with self.events.task(IMAGES, total, total - left):
            for part in missing:
                samples = maker.make(part, events)
                made += 1
                for sample in samples:
                    events.emit(reported(sample))
                yield part, samples


class PartMaker:
    """A request with its models loaded, and the data set in parts that it goes into. Nothing is made yet.

    Raises what `prepare` and `SharedDataset` raise.
    """

    def __init__(
        self,
        request: Request,
        execution: Execution,
        given: Given,
        out: str | Path,
        expected: Mapping[str, Any] | None = None,
    ) -> None:
        prepared: Prepared = prepare(request, Models(request, execution, given), execution)
        if expected is not None:
            check_models(expected, prepared.identities())
        if prepared.micro_batches is not None:
            prepared.micro_batches.fixed = True
        self.prepared = prepared
        self.groups = prepared.groups()
        self.kind = kind_of(prepared)
        self.dataset = SharedDataset(
            out,
            made_by(prepared),
            prepared.labels,
            Division.of(len(self.groups)),
            self.kind.to_json(),
            execution.mixed,
        )

    def images_in(self, parts: Sequence[int]) -> int:
        """How many images some parts have together."""
        return sum(
            len(self.groups[group])
            for part in parts
            for group in self.dataset.division.groups_of(part)
        )

    def make(self, part: int, events: Events) -> list[Sample]:
        """Make the images of a part and write them; none where another process made the part first."""
        if self.dataset.is_done(part):
            events.emit(Progressed(IMAGES, self.images_in([part]), "made by another process"))
            return []
        samples = [
            sample
            for group in self.dataset.division.groups_of(part)
            for sample in self.prepared.make(self.groups[group], events)
        ]
        return samples if self.dataset.write(part, samples) else []
