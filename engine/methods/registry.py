"""The baselines by name, and one call for all of them."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Generator, Tensor

from engine.classifiers.base import Classifier
from engine.errors import ConfigError
from engine.methods.deepinversion import aligning_statistics, check_student, deep_inversion
from engine.methods.descent import OnIteration
from engine.methods.natural_inversion import feature_statistics, natural_inversion
from engine.methods.plugin_inversion import plug_in_inversion
from engine.settings.inversion import (
    DeepInversion,
    InversionSettings,
    NaturalInversion,
    PlugInInversion,
)

DDIS = "ddis"
"""What the package's own method is called among them."""
PLAIN = "plain"
"""The prior alone: the package's own method without alignment and tokens."""

BASELINES: dict[str, type[InversionSettings]] = {
    method.name: method for method in (DeepInversion, PlugInInversion, NaturalInversion)
}


def synthesise(
    settings: InversionSettings,
    classifier: Classifier,
    labels: Sequence[int],
    generator: Generator,
    student: Classifier | None = None,
    on_iteration: OnIteration | None = None,
) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] of classes `labels`, by the method whose settings these are."""
    if isinstance(settings, DeepInversion):
        return deep_inversion(classifier, labels, generator, settings, student, on_iteration)
    if isinstance(settings, PlugInInversion):
        return plug_in_inversion(classifier, labels, generator, settings, on_iteration)
    return natural_inversion(
        classifier, labels, generator, cast(NaturalInversion, settings), on_iteration
    )


def settings_of(method: str | InversionSettings, classifier: Classifier) -> InversionSettings:
    """A method's settings, or by its name the defaults for the size of the classifier's images."""
    if isinstance(method, InversionSettings):
        return method
    if method not in BASELINES:
        raise ConfigError(
            f"unknown method {method!r}, expected one of {', '.join(map(repr, (DDIS, PLAIN, *BASELINES)))}, or the "
            "settings of one of these, such as DeepInversion(): choose one."
        )
    return BASELINES[method].for_px(classifier.input_px)


def check_fit(
    settings: InversionSettings, classifier: Classifier, student: Classifier | None
) -> None:
    """Raise ConfigError where a method cannot work on this classifier or with this student."""
    if torch.float16 in {classifier.dtype, *([student.dtype] if student else [])}:
        raise ConfigError(
            f"method {settings.name!r} has a network in float16, expected float32 or bfloat16: gradients by pixels "
            "leave float16's range. Load it in another dtype."
        )
    if isinstance(settings, NaturalInversion):
        feature_statistics(classifier)
    if isinstance(settings, DeepInversion):
        if settings.bn_weight:
            aligning_statistics(classifier)
        check_student(classifier, settings, student)
        _check_half_size(classifier, settings)
    elif student is not None:
        raise ConfigError(
            f"a student is given with method {settings.name!r}, expected none: only 'deepinversion' has an adaptive "
            "variant. Leave the student out."
        )


def _check_half_size(classifier: Classifier, settings: DeepInversion) -> None:
    if not settings.half_size_iterations:
        return
    height, width = (side // 2 for side in classifier.preprocess.crop)
    try:
        with torch.no_grad():
            classifier.network(
                torch.zeros(1, 3, height, width, device=classifier.device, dtype=classifier.dtype)
            )
    except RuntimeError as error:
        raise ConfigError(
            f"classifier {classifier.name!r} cannot read images of {height} x {width} pixels, expected one that reads "
            "half its own size: set deepinversion's half_size_iterations to 0."
        ) from error
