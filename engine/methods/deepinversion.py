"""DeepInversion: pixels that the classifier recognises and whose statistics are those that it stored.

    min_x  CE(f(x), y) + a_f R_feature(x) + a_tv R_TV(x) + a_l2 R_l2(x)  [ + a_c R_compete(x) ]

R_feature is L_BN with un-squared norms, the first layer counted tenfold, over the batch. With `balance` it is measured
in units of its value at the start, which then counts as much as cross-entropy at chance: a_f log(K) R_feature /
R_feature(start). R_compete (adaptive DeepInversion, ADI) asks for images on which a student does not yet agree with the
teacher. Each iteration sees the images moved and perhaps mirrored. Large images begin at half the size.

Yin et al., Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion, CVPR 2020 (arXiv 1912.08795), eq. 3-8.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import log

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy, interpolate

from engine.classifiers.base import Classifier, check_differentiable, statistics_of
from engine.classifiers.statistics import Statistics
from engine.errors import ConfigError
from engine.guidance.domain import Domain
from engine.methods.descent import Canvas, OnIteration, Watch, descend, read_at
from engine.methods.inversion import InversionMethod
from engine.methods.penalties import competition, image_norm, total_variation
from engine.methods.views import flipped, jittered
from engine.settings.inversion import DeepInversion

BETAS = (0.5, 0.9)
"""Adam's, as in the paper."""


def deep_inversion(
    classifier: Classifier,
    labels: Sequence[int],
    generator: Generator,
    settings: DeepInversion = DeepInversion(),
    student: Classifier | None = None,
    on_iteration: OnIteration | None = None,
) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] of these classes, at the classifier's input size.

    student: with `settings.competition`, a frozen classifier of the same classes, given x as the teacher is.
    """
    check_student(classifier, settings, student)
    canvas = Canvas(classifier)
    height, width = canvas.size
    stages = [
        ((height // 2, width // 2), settings.half_size_iterations),
        (canvas.size, settings.iterations),
    ]
    watch = Watch(sum(iterations for _, iterations in stages), labels, on_iteration)
    target = torch.tensor(labels, device=classifier.device)

    def optimise(
        x: Tensor, size: tuple[int, int], iterations: int, l_bn: Callable[[], Tensor]
    ) -> None:
        teacher = read_at(classifier, size)
        rival = None if student is None else read_at(student, size)
        most = settings.jitter * size[0] // height

        def loss() -> Tensor:
            seen = jittered(x, most, generator)
            images = canvas.images(flipped(seen, generator) if settings.flip else seen)
            logits = teacher.logits(images)
            other = None if rival is None else rival.logits(images)
            return inversion_loss(settings, x, logits, target, balanced(l_bn()), other)

        groups = [{"params": [x], "lr": settings.learning_rate}]
        descend(groups, loss, iterations, BETAS, watch, lambda: canvas.clamp_(x.data))

    balanced = _Balance(len(classifier.labels)) if settings.balance else _as_it_is
    x = canvas.noise(
        len(labels), next(size for size, iterations in stages if iterations), generator
    )
    canvas.clamp_(x)
    with _measured(classifier, settings) as l_bn:
        for size, iterations in stages:
            if iterations:
                x = interpolate(x.detach(), size, mode="nearest").clone().requires_grad_()
                optimise(x, size, iterations, l_bn)
    return canvas.finished(x)


@contextmanager
def _measured(classifier: Classifier, settings: DeepInversion) -> Iterator[Callable[[], Tensor]]:
    """Yield a function that gives R_feature of the classifier's latest pass in the block; 0 where it has no weight."""
    if not settings.bn_weight:
        yield lambda: torch.zeros((), device=classifier.device)
        return
    with Domain.of(classifier.network, aligning_statistics(classifier), "first").watched() as l_bn:
        yield l_bn


def _as_it_is(l_bn: Tensor) -> Tensor:
    return l_bn


class _Balance:
    """L_BN in units of its first value, times cross-entropy at chance among K classes."""

    def __init__(self, classes: int) -> None:
        self.chance = log(classes)
        self.first: Tensor | None = None

    def __call__(self, l_bn: Tensor) -> Tensor:
        if self.first is None:
            self.first = l_bn.detach().clamp_min(torch.finfo(l_bn.dtype).tiny)
        return self.chance * l_bn / self.first


def aligning_statistics(classifier: Classifier) -> Statistics:
    """The statistics that R_feature compares with. Raises ModelError where the classifier has none."""
    return statistics_of(classifier, "deepinversion's bn_weight", "set `bn_weight` to 0")


def inversion_loss(
    settings: DeepInversion,
    x: Tensor,
    logits: Tensor,
    target: Tensor,
    l_bn: Tensor,
    student_logits: Tensor | None = None,
) -> Tensor:
    """The loss of pixels x (N, 3, H, W), what both networks say of them (N, K), and their classes (N,). A scalar."""
    value = settings.class_weight * cross_entropy(logits, target) + settings.bn_weight * l_bn
    value = value + settings.tv_weight * total_variation(x) + settings.l2_weight * image_norm(x)
    if student_logits is None:
        return value
    return value + settings.competition * competition(logits, student_logits)


def check_student(
    classifier: Classifier, settings: DeepInversion, student: Classifier | None
) -> None:
    """Raise ConfigError where adaptive DeepInversion has no student that fits, or a student has no use."""
    if settings.competition and student is None:
        raise ConfigError(
            f"deepinversion's competition is {settings.competition} and no student is given, expected one: adaptive "
            "DeepInversion looks for images on which teacher and student differ. Pass student=..., or competition 0."
        )
    if student is None:
        return
    if not settings.competition:
        raise ConfigError(
            "a student is given and deepinversion's competition is 0, expected a weight > 0: the student would have "
            "no effect. Set the competition (the paper has 10 for 32 px images), or leave the student out."
        )
    if student.labels != classifier.labels:
        raise ConfigError(
            f"the student has {len(student.labels)} classes ({', '.join(student.labels[:3])}, ...) and the classifier "
            f"{len(classifier.labels)} ({', '.join(classifier.labels[:3])}, ...), expected the same in the same "
            "order: give a student of the same classes."
        )


def check(classifier: Classifier, settings: DeepInversion, student: Classifier | None) -> None:
    """Raise ConfigError where DeepInversion cannot work on this classifier or with this student."""
    check_student(classifier, settings, student)
    check_differentiable(classifier)
    if settings.bn_weight:
        aligning_statistics(classifier)
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


METHOD = InversionMethod(deep_inversion, check)
