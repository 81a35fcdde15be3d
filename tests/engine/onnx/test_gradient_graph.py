"""The exported gradient of guidance against autograd over the reference by hooks; one file serves every batch."""

from dataclasses import replace

import pytest
import torch

from engine.classifiers.statistics import Examined
from engine.classifiers.statistics.energy import energy
from engine.guidance.decoder import decoder_of
from engine.guidance.objective import Objective
from engine.onnx.export import exported
from engine.onnx.graphs import gradient_graph
from engine.onnx.session import Session
from engine.settings import Alignment

pytest.importorskip("onnxruntime")


def both(prior, classifier, alignment, cache, batch):
    """(loss, gradient) from the file, and from autograd."""
    decoder = decoder_of(alignment, prior, classifier.preprocess)
    graph = gradient_graph(prior, classifier, alignment, decoder)
    session = Session(exported(graph, cache), torch.device("cpu"))
    z, classes = torch.randn(batch, *prior.latent_shape(1)[1:]), torch.randint(0, 5, (batch,))
    found = session(z, classes) if alignment.class_weight else session(z)
    return found, Objective(classifier, alignment, decoder, False).value_and_grad(z, classes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "alignment", [Alignment(layers="first"), Alignment.paper()], ids=["ours", "paper"]
)
def test_a_smooth_gradient_is_autograds(prior, smooth, cache, alignment):
    for batch in (1, 3):
        (loss, grad), (wanted_loss, wanted) = both(prior, smooth, alignment, cache, batch)
        torch.testing.assert_close(loss, wanted_loss, rtol=1e-5, atol=1e-6)
        assert (grad - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_a_gradient_by_the_class_alone_is_autograds(prior, kinked, cache):
    (loss, grad), (wanted_loss, wanted) = both(prior, kinked, Alignment(domain_weight=0), cache, 2)
    torch.testing.assert_close(loss, wanted_loss, rtol=1e-5, atol=1e-6)
    assert (grad - wanted).abs().max() <= 1e-2 * wanted.abs().max()


def test_a_kinked_gradient_is_autograds_but_for_flipped_masks(prior, kinked, cache):
    for batch in (1, 3):
        (loss, grad), (wanted_loss, wanted) = both(prior, kinked, Alignment(), cache, batch)
        torch.testing.assert_close(loss, wanted_loss, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(grad, wanted, rtol=0, atol=1e-4)


def test_energy_and_units_of_channels_are_in_the_graph(prior, kinked, cache):
    examined = Examined(kinked.network, lambda: None, kinked.preprocess)
    by_energy = replace(kinked, statistics=energy(examined))
    for classifier, alignment in (
        (kinked, Alignment(layers="channels")),
        (by_energy, Alignment()),
    ):
        (loss, grad), (wanted_loss, wanted) = both(prior, classifier, alignment, cache, 2)
        torch.testing.assert_close(loss, wanted_loss, rtol=1e-5, atol=1e-5)
        assert (grad - wanted).abs().max() <= 1e-2 * wanted.abs().max()
