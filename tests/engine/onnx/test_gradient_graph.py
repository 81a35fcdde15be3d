"""The exported gradient of guidance against autograd over the reference by hooks; one file serves every batch."""

from dataclasses import replace

import pytest
import torch

from engine.classifiers.statistics import Examined
from engine.classifiers.statistics.energy import energy
from engine.settings import Alignment

pytest.importorskip("onnxruntime")


def check_smooth(gradients, prior, smooth, cache, alignment):
    for batch in (1, 3):
        (loss, grad), (wanted_loss, wanted) = gradients(prior, smooth, alignment, cache, batch)
        torch.testing.assert_close(loss, wanted_loss, rtol=1e-5, atol=1e-6)
        assert (grad - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.slow
def test_a_smooth_gradient_is_autograds(gradients, prior, smooth, cache):
    check_smooth(gradients, prior, smooth, cache, Alignment(layers="first"))


@pytest.mark.slow
def test_the_published_smooth_gradient_is_autograds(gradients, prior, smooth, cache):
    check_smooth(gradients, prior, smooth, cache, Alignment.paper())


@pytest.mark.slow
def test_a_gradient_by_the_class_alone_is_autograds(gradients, prior, kinked, cache):
    by_class = Alignment(domain_weight=0)
    (loss, grad), (wanted_loss, wanted) = gradients(prior, kinked, by_class, cache, 2)
    torch.testing.assert_close(loss, wanted_loss, rtol=1e-5, atol=1e-6)
    assert (grad - wanted).abs().max() <= 1e-2 * wanted.abs().max()


@pytest.mark.slow
def test_energy_and_units_of_channels_are_in_the_graph(gradients, prior, kinked, cache):
    examined = Examined(kinked.network, lambda: None, kinked.preprocess)
    by_energy = replace(kinked, statistics=energy(examined))
    for classifier, alignment in (
        (kinked, Alignment(layers="channels")),
        (by_energy, Alignment()),
    ):
        (loss, grad), (wanted_loss, wanted) = gradients(prior, classifier, alignment, cache, 2)
        torch.testing.assert_close(loss, wanted_loss, rtol=1e-5, atol=1e-5)
        assert (grad - wanted).abs().max() <= 1e-2 * wanted.abs().max()
