"""What is predicted, beside what a run of real tensors takes."""

import pytest

from engine.classifiers import Classifier
from engine.memory.case import Case
from engine.memory.costs import PLAIN, WAYS
from engine.memory.measure import measuring, peak_bytes
from engine.memory.phases import PHASES, count_case, run_case
from engine.memory.plan import plan
from engine.memory.skeleton import skeleton_classifier, skeleton_prior
from engine.memory.subject import Subject
from engine.priors import Prior
from engine.runners.generate import generate
from engine.settings import Alignment, Sampling

TOLERANCE = 0.1


CASES = [
    *((phase, PLAIN) for phase in PHASES if phase not in WAYS),
    *((phase, way) for phase, ways in WAYS.items() for way in ways),
]


@pytest.mark.parametrize(("phase", "way"), CASES)
def test_a_phase_takes_what_was_predicted(
    small_prior: Prior, classifier: Classifier, phase: str, way: tuple[bool, bool]
) -> None:
    checkpoint, staged = way
    real = Subject(prior=small_prior, classifier=classifier, alignment=Alignment(), cfg=7.5)
    hollow = Subject(
        prior=skeleton_prior(small_prior),
        classifier=skeleton_classifier(classifier),
        alignment=Alignment(),
        cfg=7.5,
    )
    case = Case(phase, 3, 3, checkpoint, staged=staged)
    if phase == "guidance":
        run_case(real, Case(phase, 1, 1))
    with measuring(small_prior.device) as measured:
        run_case(real, case)
    assert count_case(hollow, case).peak_bytes == pytest.approx(measured.peak_bytes, rel=TOLERANCE)


def test_a_whole_run_takes_what_was_planned(
    small_prior: Prior, classifier: Classifier, weights: int
) -> None:
    sampling = Sampling(steps=3, batch=7)
    planned = plan(small_prior, classifier, batch=7, sampling=sampling, tokens=False, full=False)
    with measuring(small_prior.device) as measured:
        list(generate(classifier, small_prior, None, 1, sampling=sampling, memory=planned))
    assert planned.generate_bytes - weights == pytest.approx(measured.peak_bytes, rel=TOLERANCE)
    assert peak_bytes(small_prior.device) > weights
