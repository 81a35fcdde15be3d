"""Plug-In Inversion: its stages, and that cross-entropy alone reaches the classes."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.methods.plugin_inversion import grown, plug_in_inversion, stage_sizes
from engine.settings.inversion import PlugInInversion

CLASSES = [0, 1, 2, 3, 4, 5, 6]
FEW = PlugInInversion(stages=2, iterations=10, copies=2, jitter=1, learning_rate=0.1)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_stages_grow_evenly_to_the_size() -> None:
    assert stage_sizes((32, 32), 4) == [(8, 8), (16, 16), (24, 24), (32, 32)]
    assert stage_sizes((3, 5), 7)[0] == (1, 1)
    assert stage_sizes((3, 5), 7)[-1] == (3, 5)


def test_an_image_grows_in_the_middle_of_fresh_noise() -> None:
    x, frame = torch.ones(1, 3, 4, 4), torch.zeros(1, 3, 8, 8)
    assert torch.equal(grown(x, frame, 0.0)[0, 0].nonzero().amin(0), torch.tensor([2, 2]))
    assert grown(x, frame, 0.0).sum() == 3 * 16
    assert grown(x, frame, 0.5).sum() == 3 * 36
    assert grown(x, frame, 1.0).sum() == 3 * 64
    assert frame.sum() == 0


def test_iterations_bring_out_the_class() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    colours = load_classifier(
        network, labels=["red", "green", "blue"], preprocess=Preprocess.squash(16), device="cpu"
    )

    def share(iterations: int) -> Tensor:
        images = plug_in_inversion(colours, [0, 1, 2], rng(), replace(FEW, iterations=iterations))
        assert images.shape == (3, 3, 16, 16)
        assert images.min() >= 0
        assert images.max() <= 1
        return images.mean((2, 3)).diagonal() / images.mean((2, 3)).sum(1)

    assert (share(1) < 0.45).all()
    assert (share(40) > 0.6).all()


def test_the_generator_decides_the_images(classifier: Classifier) -> None:
    settings = replace(FEW, iterations=2)
    once, again, other = (
        plug_in_inversion(classifier, [0, 1], rng(seed), settings) for seed in (0, 0, 1)
    )
    assert torch.equal(once, again)
    assert not torch.allclose(once, other, atol=0.1)


def test_the_classifier_sees_each_copy_at_its_own_size(classifier: Classifier) -> None:
    shapes: list[torch.Size] = []
    hook = classifier.network.register_forward_pre_hook(
        lambda _, given: shapes.append(given[0].shape)
    )
    plug_in_inversion(classifier, [0, 1], rng(), replace(FEW, copies=3, iterations=2))
    hook.remove()
    assert shapes == [torch.Size([6, 3, 16, 16])] * 4
