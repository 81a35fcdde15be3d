"""Networks without BatchNorm go through plan and generate, guided by a statistics file and by energy."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from engine.classifiers import Preprocess, load_classifier
from engine.evaluation.export_statistics import ExactStatisticsWarning, export_statistics
from engine.guidance.objective import Objective
from engine.memory.case import Case
from engine.memory.measure import measuring
from engine.memory.phases import count_case, run_case
from engine.memory.skeleton import skeleton_classifier, skeleton_prior
from engine.memory.subject import Subject
from engine.priors import Prior
from engine.runners.generate import generate
from engine.settings import Alignment, Sampling
from tests.engine.without_batch_norm import convnext, vit

LABELS = ("dog", "horse", "guitar")
READS = Preprocess.squash(16)
ALIGNMENT = Alignment(class_weight=0.0, layers="channels")


@pytest.fixture
def file_of(tmp_path: Path) -> Callable[[nn.Module], Path]:
    """file_of(network): its statistics over 24 images of dark noise."""

    def written(network: nn.Module) -> Path:
        folder = tmp_path / "images"
        folder.mkdir()
        for number in range(24):
            pixels = (torch.rand(16, 16, 3) ** 3 * 255).byte().numpy()
            Image.fromarray(pixels).save(folder / f"{number}.png")
        classifier = load_classifier(
            network, labels=LABELS, preprocess=READS, device="cpu", statistics="none"
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExactStatisticsWarning)
            export_statistics(classifier, folder, tmp_path / "s.safetensors")
        return tmp_path / "s.safetensors"

    return written


@pytest.mark.parametrize("build", [vit, convnext])
def test_a_guided_run_ends_nearer_to_the_file_than_a_plain_one(
    build: Callable[[int], nn.Module], file_of: Callable[[nn.Module], Path], small_prior: Prior
) -> None:
    torch.manual_seed(0)
    network = build(len(LABELS))
    classifier = load_classifier(
        network,
        labels=LABELS,
        preprocess=READS,
        device="cpu",
        statistics=str(file_of(network)),
    )
    asked = {"images_per_class": 2, "sampling": Sampling(steps=6, batch=6)}
    guided = [*generate(classifier, small_prior, alignment=ALIGNMENT, memory="1GB", **asked)]
    plain = [*generate(classifier, small_prior, method="plain", **asked)]
    assert all(sample.curve and sample.l_bn > 0 for sample in guided)
    objective = Objective(classifier, ALIGNMENT)
    near, far = (
        objective.value(torch.stack([sample.image for sample in samples])).item()
        for samples in (guided, plain)
    )
    assert near < 0.9 * far


def test_a_plan_counts_what_the_file_measures(
    file_of: Callable[[nn.Module], Path], small_prior: Prior
) -> None:
    network = vit(len(LABELS))
    case, counts = Case("guidance", 6, 3), {}
    for statistics in (str(file_of(network)), "energy", "patch-entropy"):
        classifier = load_classifier(
            network, labels=LABELS, preprocess=READS, device="cpu", statistics=statistics
        )
        real = Subject(prior=small_prior, classifier=classifier, alignment=ALIGNMENT, cfg=4.0)
        run_case(real, case)
        with measuring(small_prior.device) as measured:
            run_case(real, case)
        hollow = Subject(
            prior=skeleton_prior(small_prior),
            classifier=skeleton_classifier(classifier),
            alignment=ALIGNMENT,
            cfg=4.0,
        )
        counted = count_case(hollow, case)
        assert counted.peak_bytes == pytest.approx(measured.peak_bytes, rel=0.1), statistics
        counts[statistics] = hollow.identity
    assert len({*counts.values()}) == 3  # a count of one source is not taken for another's


def test_energy_guides_a_run(small_prior: Prior) -> None:
    classifier = load_classifier(
        convnext(len(LABELS)), labels=LABELS, preprocess=READS, device="cpu", statistics="energy"
    )
    sampling = Sampling(steps=3, batch=3)
    samples = [*generate(classifier, small_prior, images_per_class=1, sampling=sampling)]
    assert all(len(sample.curve) > 0 for sample in samples)
    assert all(sample.l_bn != sample.l_bn for sample in samples)  # energy knows no moments
