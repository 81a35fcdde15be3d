"""What guidance costs on Stable Diffusion 2.1's own architecture: counted, without weights."""

import pytest

from engine.classifiers import load_classifier
from engine.memory.case import Case
from engine.memory.phases import count_case
from engine.memory.skeleton import skeleton_classifier
from engine.memory.subject import Subject
from engine.priors import load_prior
from engine.settings import Alignment


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject(
        prior=load_prior("arch:sd-2.1-base", device="meta"),
        classifier=skeleton_classifier(load_classifier("arch:resnet50", device="cpu")),
        alignment=Alignment(),
        cfg=7.5,
    )


def test_a_guided_step_costs_little_more_than_a_plain_one(subject: Subject) -> None:
    """At 512 px with ResNet-50; the published way, through the full VAE, costs four plain steps."""
    plain = count_case(subject, Case("sampling", 1, 1)).flops
    assert plain == pytest.approx(1.61e12, rel=0.01)  # two passes of the UNet

    def ratio(alignment: Alignment) -> float:
        guided = Subject(
            prior=subject.prior, classifier=subject.classifier, alignment=alignment, cfg=subject.cfg
        )
        return 1 + count_case(guided, Case("guidance", 1, 1)).flops / plain

    assert ratio(Alignment()) <= 1.10
    assert 3.5 <= ratio(Alignment.paper()) <= 4.2
