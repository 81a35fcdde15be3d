"""What does not fit together is refused in words; compute is counted."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.classifiers.cifar_resnet import CifarResNet
from engine.errors import ConfigError
from engine.memory.count import counting
from engine.methods.compute import flops_per_image
from engine.methods.models import Given, Models
from engine.methods.registry import prepare, prepare_of, settings_of
from engine.request import METHODS, Execution, Request
from engine.settings.inversion import (
    DeepInversion,
    InversionSettings,
    NaturalInversion,
    PlugInInversion,
)
from engine.settings.methods import DDIS, Plain


def check_fit(
    settings: InversionSettings, classifier: Classifier, student: Classifier | None
) -> None:
    """Prepare a request with such settings and models."""
    given = Given(classifier=classifier, student=student)
    request = Request(method=settings)
    prepare(request, Models(request, Execution(), given))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: DeepInversion(iterations=0),
            "iterations is 0, expected a finite number > 0",
        ),
        (
            lambda: DeepInversion(bn_weight=-1.0),
            "bn_weight is -1.0, expected a finite number >= 0",
        ),
        (lambda: DeepInversion(learning_rate=float("nan")), "learning_rate is nan"),
        (
            lambda: PlugInInversion(batch=0),
            "batch is 0, expected a finite number > 0",
        ),
        (lambda: PlugInInversion(stages=-1), "stages is -1"),
        (
            lambda: PlugInInversion(zoom=1.5),
            r"zoom is 1.5, expected a share from 0",
        ),
        (lambda: NaturalInversion(width=0), "width is 0"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_student_must_have_a_use_and_fit(classifier: Classifier, student: Classifier) -> None:
    adaptive = DeepInversion(competition=10.0)
    check_fit(adaptive, classifier, student)
    with pytest.raises(
        ConfigError, match=r"competition is 10\.0 and no student is given, expected one"
    ):
        check_fit(adaptive, classifier, None)
    with pytest.raises(
        ConfigError, match="a student is given and deepinversion's competition is 0"
    ):
        check_fit(DeepInversion(), classifier, student)
    with pytest.raises(
        ConfigError, match="student is given with method 'plugin-inversion', expected none"
    ):
        check_fit(PlugInInversion(), classifier, student)
    fewer = load_classifier(
        CifarResNet(depth=8, widths=(4, 4, 4), classes=2),
        labels=["dog", "cat"],
        preprocess=Preprocess.squash(16),
    )
    with pytest.raises(
        ConfigError, match=r"student has 2 classes \(dog, cat, ...\) and the classifier 7"
    ):
        check_fit(adaptive, classifier, fewer)


def test_what_a_method_cannot_do_is_refused(classifier: Classifier) -> None:
    with pytest.raises(
        ConfigError,
        match="unknown method 'dream', expected one of 'ddis', 'plain', 'deepinversion'",
    ):
        settings_of("dream", lambda: classifier)
    with pytest.raises(
        ConfigError, match="'plugin-inversion' has a network in float16, expected float32"
    ):
        check_fit(PlugInInversion(), replace(classifier, dtype=torch.float16), None)
    flat = nn.Sequential(
        nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 14 * 14, 7)
    )
    fixed = load_classifier(
        flat, labels=classifier.labels, preprocess=Preprocess.squash(16), device="cpu"
    )
    check_fit(DeepInversion(), fixed, None)
    with pytest.raises(ConfigError, match="cannot read images of 8 x 8 pixels"):
        check_fit(DeepInversion(half_size_iterations=5), fixed, None)


def test_a_name_is_the_defaults_for_the_classifiers_images(classifier: Classifier) -> None:
    large = replace(classifier, preprocess=Preprocess.squash(224))
    for settings in (DeepInversion, PlugInInversion, NaturalInversion):
        assert settings_of(settings.name, lambda: classifier) == settings()
        assert settings_of(settings.name, lambda: large) == settings.for_px(224) != settings()
    assert settings_of(PlugInInversion(copies=3), lambda: classifier).copies == 3
    for name, expected in (("ddis", DDIS()), ("plain", Plain())):
        assert settings_of(name, lambda: pytest.fail("not needed")) == expected


def test_the_settings_of_each_method_name_what_makes_its_images() -> None:
    inversions = {"deepinversion", "plugin-inversion", "natural-inversion"}
    assert {"ddis", "plain"} | inversions <= {*METHODS}
    for name, kind in METHODS.items():
        assert kind.name == name
        assert callable(prepare_of(kind()))
        assert kind.uses <= {"prior", "student"}


def test_compute_is_that_of_forward_and_backward_passes(
    classifier: Classifier, student: Classifier
) -> None:
    def one_pass(of: Classifier, px: int = 16) -> int:
        images = torch.rand(1, 3, px, px, requires_grad=True)
        with counting() as count:
            replace(of, preprocess=Preprocess.squash(px)).logits(images).sum().backward()
        return count.flops

    each = one_pass(classifier)
    assert flops_per_image(DeepInversion(iterations=50), classifier) == 50 * each
    both = DeepInversion(iterations=50, half_size_iterations=20)
    assert flops_per_image(both, classifier) == 50 * each + 20 * one_pass(classifier, 8)
    adaptive = DeepInversion(iterations=50, competition=1.0)
    assert flops_per_image(adaptive, classifier, student) == 50 * (each + one_pass(student))
    assert (
        flops_per_image(PlugInInversion(stages=3, iterations=10, copies=4), classifier)
        == 120 * each
    )
    assert flops_per_image(NaturalInversion(iterations=10), classifier) > 10 * 2 * each
