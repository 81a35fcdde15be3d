"""What is predicted from two counts is what a count at that size gives."""

import pytest
import torch
from torch import nn

from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.classifiers.cifar_resnet import CifarResNet
from engine.memory import timeline as timeline_module
from engine.memory.case import Case
from engine.memory.count import Record, counting
from engine.memory.phases import count_case
from engine.memory.skeleton import skeleton_classifier, skeleton_prior
from engine.memory.subject import Subject
from engine.memory.timeline import Counts, Timeline, Trace
from engine.priors import Prior, load_prior
from engine.settings import Alignment
from tests.engine.priors.conftest import FAMILIES, Family, built

KINDS = [
    Case("text", 0, 0),
    Case("sampling", 0, 0),
    Case("guidance", 0, 0),
    Case("guidance", 0, 0, checkpoint=True),
    Case("decode", 0, 0),
    Case("decode", 0, 0, tile=4),
    Case("cat", 0, 0, checkpoint=True),
    Case("rows", 0, 0),
]
SIZES = (28, 2, 1, 3, 7, 70)
STATISTICS = {"sd": "batch", "sdxl": "image"}


@pytest.fixture(
    scope="module",
    params=[FAMILIES[0], pytest.param(FAMILIES[1], marks=pytest.mark.slow)],
    ids=lambda family: family.name,
)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    network = CifarResNet(depth=8, widths=(4, 6, 8), classes=7)
    return load_classifier(
        network, labels=list("abcdefg"), preprocess=Preprocess.squash(16), device="cpu"
    )


@pytest.fixture(scope="module")
def subject(family: Family, classifier: Classifier) -> Subject:
    prior: Prior = load_prior(built(family))
    return Subject(
        prior=skeleton_prior(prior),
        classifier=skeleton_classifier(classifier),
        alignment=Alignment(statistics=STATISTICS[family.name]),
        cfg=4.0,
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.phase}-{kind[3]}-{kind.tile}")
def test_counts_are_those_of_counting_each_size(
    subject: Subject, kind: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Case] = []

    def counted(subject: Subject, case: Case, record: Record | None = None) -> object:
        asked.append(case)
        return count_case(subject, case, record)

    monkeypatch.setattr(timeline_module, "count_case", counted)
    count_case(subject, kind._replace(images=2, part=2))  # a prior prepares itself once
    counts = Counts()
    for size in SIZES:
        case = kind._replace(images=size, part=size)
        assert counts.of(subject, case) == count_case(subject, case)
    for part in (1, 3):
        case = kind._replace(images=7, part=part)
        assert counts.of(subject, case) == count_case(subject, case)
    wholes = [case.images for case in asked if case.part == case.images]
    # Noise is drawn image by image, so that learning tokens has a trace of another length.
    assert wholes == ([*SIZES] if kind.phase == "cat" else [28, 2, 1, 70])


def trace(work: nn.Module, images: int) -> Trace:
    record = Record()
    with torch.no_grad(), counting(record) as count:
        work(torch.empty(images, 8, device="meta"))
    return Trace(images, count.operators, record)


class _Square(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ x.T


class _Loop(nn.Module):
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [row + 1 for row in x]


class _Held(nn.Module):
    """Peaks at its end for small batches and in its middle for large ones."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (x + 1) * 2 - x
        return torch.empty(1000, device=x.device) + 1


@pytest.mark.parametrize("work", [_Square(), _Loop()])
def test_traces_that_are_not_linear_give_no_timeline(work: nn.Module) -> None:
    assert Timeline.through(trace(work, 5), trace(work, 9)) is None


def test_the_peak_moves_with_the_size() -> None:
    work = _Held()
    found = Timeline.through(trace(work, 5), trace(work, 9))
    assert found is not None
    for images in (2, 20, 100, 500):
        record = Record()
        with torch.no_grad(), counting(record) as count:
            work(torch.empty(images, 8, device="meta"))
        assert found.at(images).peak_bytes == count.peak
    assert found.at(2).peak_bytes < found.at(500).peak_bytes
