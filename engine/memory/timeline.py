"""What a whole batch takes at any size, from the traces of two sizes.

A trace lists what was allocated and released, in order. Where the traces of two sizes agree change by change, each
change is either the same at both sizes or proportional to the size. So it is at any size between them, and

    peak(n) = max over prefixes of the sum of (fixed + each * n)

Sizes outside are counted: networks may do otherwise from some size on, as diffusers' upsampling does from 64 images.
A batch of one is always counted: torch passes over copies along an axis of length 1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from engine.memory.case import Case
from engine.memory.count import Record
from engine.memory.phases import Counted, count_case
from engine.memory.subject import Subject


class Linear(NamedTuple):
    """An amount that grows with the number of images: fixed + each * images."""

    fixed: int
    each: int

    def at(self, images: int) -> int:
        return self.fixed + self.each * images


@dataclass(frozen=True)
class Trace:
    """A count of a whole batch with all that led to it."""

    images: int
    operators: int
    record: Record


@dataclass(frozen=True)
class Timeline:
    """What whole batches of one phase take. levels: live bytes whenever something was allocated."""

    levels: frozenset[Linear]
    flops: Linear
    operators: int

    @classmethod
    def through(cls, one: Trace, other: Trace) -> "Timeline | None":
        """The timeline of two traces of different sizes; None where they disagree."""
        changes = _linear(one, other, one.record.changes, other.record.changes)
        flops = _linear(one, other, one.record.flops, other.record.flops)
        if changes is None or flops is None or one.operators != other.operators:
            return None
        *_, work = _sums(flops)
        return cls(frozenset(_sums(changes)), work, one.operators)

    def at(self, images: int) -> Counted:
        """What a whole batch of a size between the two takes."""
        peak = max(level.at(images) for level in self.levels)
        return Counted(peak, self.flops.at(images), self.operators, 1)


def _linear(
    one: Trace, other: Trace, amounts: Sequence[int], others: Sequence[int]
) -> list[Linear] | None:
    """Each amount as a function of the number of images; None where two are neither equal nor proportional."""
    if len(amounts) != len(others):
        return None
    found = []
    for here, there in zip(amounts, others, strict=True):
        if here == there:
            found.append(Linear(here, 0))
        elif here * other.images == there * one.images and here % one.images == 0:
            found.append(Linear(0, here // one.images))
        else:
            return None
    return found


def _sums(amounts: Sequence[Linear]) -> Iterator[Linear]:
    """The sums of the first 0, 1, 2 ... amounts."""
    fixed = each = 0
    yield Linear(0, 0)
    for amount in amounts:
        fixed, each = fixed + amount.fixed, each + amount.each
        yield Linear(fixed, each)


class Counts:
    """The counts of one subject's cases, each made once and, where two others are enough, not at all."""

    def __init__(self) -> None:
        self._counted: dict[Case, Counted] = {}
        self._traces: dict[Case, list[Trace]] = {}
        self._timelines: dict[Case, list[tuple[range, Timeline]]] = {}

    def of(self, subject: Subject, case: Case) -> Counted:
        """The count of a case."""
        if case not in self._counted:
            whole = case.part == case.images > 1
            self._counted[case] = (self._whole if whole else count_case)(subject, case)
        return self._counted[case]

    def _whole(self, subject: Subject, case: Case) -> Counted:
        kind, images = case._replace(images=0, part=0), case.images
        timelines = self._timelines.setdefault(kind, [])
        for sizes, timeline in timelines:
            if images in sizes:
                return timeline.at(images)
        record = Record()
        counted = count_case(subject, case, record)
        trace = Trace(images, counted.operators, record)
        traces = self._traces.setdefault(kind, [])
        for earlier in traces:
            if found := Timeline.through(earlier, trace):
                low, high = sorted((earlier.images, images))
                timelines.append((range(low, high + 1), found))
        traces.append(trace)
        return counted
