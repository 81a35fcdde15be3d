"""The loss against an independent one, and a loop that is a function of its seed."""

import copy
import math
from itertools import pairwise

import pytest
import torch

from engine.classifiers.cifar_resnet import CifarResNet
from engine.downstream.pixels import Images
from engine.downstream.training import (
    batch_bounds,
    distillation_loss,
    logits_on,
    means,
    rate,
    reading,
    scores,
    teach,
    teacher_of,
)
from engine.errors import ConfigError, GuidanceError
from engine.settings.downstream import Comparison, Distillation, Pruning, Quantisation

FEW = Distillation(epochs=3, batch=8)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_loss_is_the_divergence_from_teacher_to_student(temperature: float) -> None:
    student, teacher = (
        torch.randn(5, 7, dtype=torch.float64),
        torch.randn(5, 7, dtype=torch.float64) * 3,
    )
    expected = 0.0
    for of_student, of_teacher in zip(student.tolist(), teacher.tolist(), strict=True):
        p = [math.exp(v / temperature) for v in of_teacher]
        q = [math.exp(v / temperature) for v in of_student]
        p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
        expected += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) * temperature**2 / 5
    assert distillation_loss(student, teacher, temperature).item() == pytest.approx(
        expected, rel=1e-9
    )
    assert distillation_loss(teacher, teacher, temperature).item() == pytest.approx(0, abs=1e-12)


def test_the_rate_rises_to_one_and_falls_to_nothing() -> None:
    rates = [rate(update, 100) for update in range(100)]
    assert max(rates) == pytest.approx(1)
    assert rates[0] < 0.1
    assert rates[-1] < 0.001
    assert rates.index(max(rates)) == 10
    assert 0 < rate(0, 1) <= 1


@pytest.mark.parametrize(
    ("number", "batch"), [(8, 8), (9, 8), (17, 8), (33, 8), (2, 2), (3, 2), (7, 2), (5, 4)]
)
def test_no_batch_is_a_rest_of_one(number: int, batch: int) -> None:
    sizes = [stop - start for start, stop in pairwise(batch_bounds(number, batch))]
    assert sum(sizes) == number
    assert max(sizes) <= batch + (batch == 2)
    assert min(sizes) > 1


@pytest.fixture
def images(teacher) -> Images:
    classes = torch.arange(24) % 3
    pixels = (torch.rand(24, 3, 12, 12) * 80).to(torch.uint8)
    pixels[torch.arange(24), classes] += 150
    return Images(pixels, classes)


def taught(teacher, images: Images, settings: Distillation, seed: int):
    torch.manual_seed(1)
    student = CifarResNet(8, (4, 4, 4), 3)
    teach(student, teacher.preprocess, teacher_of(teacher), images, settings, seed)
    return student


def test_a_student_learns_and_is_a_function_of_its_seed(teacher, images) -> None:
    state = torch.random.get_rng_state()
    settings = Distillation(epochs=12, batch=8, learning_rate=1e-2, mix="none")
    student = taught(teacher, images, settings, 0)
    found = logits_on(reading(student, teacher.preprocess), images, torch.device("cpu"))
    assert (found.argmax(1) == images.classes).float().mean() > 0.9
    torch.random.set_rng_state(state)
    torch.rand(3)  # the global generator is not read
    again, other = taught(teacher, images, settings, 0), taught(teacher, images, settings, 1)
    weights = [network.state_dict()["conv1.weight"] for network in (student, again, other)]
    assert weights[0].equal(weights[1])
    assert not weights[0].equal(weights[2])
    assert not student.training


def test_stored_labels_are_learned_in_place_of_the_teachers(teacher, images) -> None:
    """Labels that say the opposite: the student follows them, and not the teacher."""
    wrong = torch.nn.functional.one_hot((images.classes + 1) % 3, 3) * 8.0
    settings = Distillation(
        epochs=12,
        batch=8,
        learning_rate=1e-2,
        soft_labels="manifest",
        mix="none",
        augment=False,
        temperature=1.0,
    )
    student = taught(teacher, Images(images.pixels, images.classes, wrong), settings, 0)
    found = logits_on(reading(student, teacher.preprocess), images, torch.device("cpu"))
    assert (found.argmax(1) == wrong.argmax(1)).float().mean() > 0.9


def test_the_teacher_is_left_as_it_was(teacher, images) -> None:
    before = copy.deepcopy(teacher.network.state_dict())
    strides = [value.stride() for value in teacher.network.parameters()]
    taught(teacher, images, FEW, 0)
    assert all(value.equal(before[key]) for key, value in teacher.network.state_dict().items())
    assert strides == [value.stride() for value in teacher.network.parameters()]


def test_a_loss_that_is_no_number_is_told(teacher, images) -> None:
    broken = Images(images.pixels, images.classes, torch.full((24, 3), float("nan")))
    with pytest.raises(
        GuidanceError, match=r"loss of the student is nan after 3 updates.*lower the learning rate"
    ):
        taught(
            teacher, broken, Distillation(epochs=3, batch=8, soft_labels="manifest", mix="none"), 0
        )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Pruning(ratio=1.0), "ratio is 1.0, expected a fraction between 0 and 1"),
        (lambda: Pruning(ratio=70), "ratio is 70, expected a fraction"),
        (lambda: Comparison(seeds=0), "seeds is 0, expected at least 1"),
        (lambda: Comparison(held_out=1.0), "held_out is 1.0, expected a fraction"),
        (lambda: Distillation(temperature=0), "temperature is 0, expected a finite number > 0"),
        (lambda: Distillation(batch=1), "batch is 1, expected at least 2"),
        (lambda: Distillation(soft_labels="hard"), "expected one of 'online', 'manifest'"),
        (lambda: Quantisation(calibration_images=0), "calibration_images is 0"),
    ],
)
def test_settings_are_checked(make, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


def test_the_long_protocol_differs_in_length_alone() -> None:
    assert Distillation.long() == Distillation(epochs=Distillation.long().epochs)
    assert Distillation.long().epochs > Distillation.short().epochs


@pytest.mark.parametrize("updates", [1, 7])
def test_updates_take_the_place_of_epochs(teacher, images, updates: int) -> None:
    told: list[float] = []
    settings = Distillation(epochs=50, batch=8, updates=updates)
    student = CifarResNet(8, (4, 4, 4), 3)
    teach(student, teacher.preprocess, teacher_of(teacher), images, settings, 0, told.append)
    assert len(told) == updates
    assert sum(told) == pytest.approx(1)


def test_the_teacher_sees_the_mixed_views_that_the_student_sees(teacher, images) -> None:
    seen: list[torch.Tensor] = []
    ask = teacher_of(teacher)

    def watched(views: torch.Tensor) -> torch.Tensor:
        seen.append(views)
        return ask(views)

    settings = Distillation(epochs=1, batch=24, augment=False, mix="mixup")
    student = CifarResNet(8, (4, 4, 4), 3)
    teach(student, teacher.preprocess, watched, images, settings, 0)
    (views,) = seen
    known = images.views(torch.arange(24), torch.device("cpu"))
    assert ((views[:, None] - known[None]).abs().amax((2, 3, 4)) > 0.05).all(1).sum() > 12


def test_scores_are_of_each_image() -> None:
    found = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    taught = torch.tensor([[2.0, 0.0], [1.0, 0.0]])
    images = Images(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]))
    of_each = scores(found, taught, images, tested=True)
    assert of_each["accuracy"].tolist() == [1, 1]
    assert of_each["agreement"].tolist() == [1, 0]
    p, q = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(2))
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert of_each["kl"].tolist() == pytest.approx([0, expected], abs=1e-6)
    assert means(of_each) == pytest.approx({"accuracy": 1, "agreement": 0.5, "kl": expected / 2})
    assert means(scores(found, taught, images, tested=False))["accuracy"] is None
