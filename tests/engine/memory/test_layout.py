"""Which networks run channels_last, and that they do."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.memory.layout import chosen_layouts, lay_out
from engine.memory.plan import plan
from engine.priors import Prior, load_prior
from engine.runners.generate import generate
from engine.settings import Sampling

LABELS = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def is_channels_last(network: nn.Module) -> bool:
    kernels = [value for value in network.parameters() if value.dim() == 4 and min(value.shape) > 1]
    return all(value.is_contiguous(memory_format=torch.channels_last) for value in kernels)


@pytest.mark.parametrize(
    ("device", "tiny", "network", "chosen"),
    [
        (CUDA, nn.Conv2d(4, 3, 1).half(), nn.Conv2d(3, 8, 1).half(), ("tiny", "classifier")),
        (
            CUDA,
            None,
            nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)).bfloat16(),
            ("classifier",),
        ),
        (CUDA, nn.Conv2d(4, 3, 1), nn.Conv2d(3, 8, 1), ()),
        (CUDA, None, nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8)).half(), ()),
        (CUDA, None, nn.Linear(3, 8).half(), ()),
        (CPU, nn.Conv2d(4, 3, 1), nn.Conv2d(3, 8, 1).bfloat16(), ("tiny", "classifier")),
        (CPU, None, nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8)), ()),
        (torch.device("meta"), None, nn.Conv2d(3, 8, 1), ()),
    ],
)
def test_what_gains_runs_channels_last(
    device: torch.device, tiny: nn.Module | None, network: nn.Module, chosen: tuple[str, ...]
) -> None:
    """Convolutions without GroupNorm among them, on CUDA in half precision."""
    prior: Any = SimpleNamespace(tiny=tiny)
    classifier: Any = SimpleNamespace(network=network)
    assert chosen_layouts(device, prior, classifier) == chosen


def test_a_run_lays_its_networks_out_as_planned(small_prior: Prior, classifier: Classifier) -> None:
    """And makes the same images, but for rounding."""
    own = load_prior("embedded", device="cpu")
    sampling = Sampling(steps=3, batch=2)
    planned = plan(own, classifier, "10GB", batch=2, tokens=False, full=False)
    assert planned.channels_last == ("tiny", "classifier")

    def images(channels_last: tuple[str, ...]) -> torch.Tensor:
        memory = replace(planned, channels_last=channels_last)
        made = generate(classifier, own, ["dog", "horse"], 1, sampling=sampling, memory=memory)
        return torch.stack([sample.image for sample in made])

    before = images(())
    assert not is_channels_last(own.tiny)
    after = images(("tiny", "classifier"))
    assert all(map(is_channels_last, (own.tiny, classifier.network)))
    torch.testing.assert_close(after, before, atol=0.02, rtol=0)
    lay_out(("tiny",), own.replaced(tiny=None), classifier)


class Flattened(nn.Module):
    """As in many tutorials: `view` reads a map whose channels are outermost."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8 * 4 * 4, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = nn.functional.adaptive_max_pool2d(self.features(x), 4)
        return self.head(found.view(len(found), -1))


def test_a_classifier_that_needs_the_usual_layout_keeps_it(small_prior: Prior) -> None:
    network = Flattened()
    for norm in (part for part in network.modules() if isinstance(part, nn.BatchNorm2d)):
        norm.running_mean.normal_()
    classifier = load_classifier(
        network, labels=LABELS, preprocess=Preprocess.squash(16), device="cpu"
    )
    samples = list(
        generate(classifier, small_prior, ["dog"], 2, sampling=Sampling(steps=3, batch=2))
    )
    assert len(samples) == 2
    assert not is_channels_last(classifier.network)
