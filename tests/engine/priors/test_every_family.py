"""What the table of docs/priors.md says of families, besides what longer tests show."""

from typing import Any

import pytest
import torch

from engine.networks import quantised
from engine.networks.quantised import KINDS, QuantisedLinear
from engine.priors import load_prior
from engine.priors.architectures.build import network
from engine.priors.architectures.families import PRIOR_ARCHITECTURES
from engine.priors.tiny_sources import published_for
from engine.priors.vae import downscale, latent_channels
from tests.engine.priors.conftest import FAMILIES
from tests.engine.priors.test_quantised_priors import clean_and_gradient, gap


@pytest.mark.shows("NF4, int8")
@pytest.mark.parametrize("kind", KINDS)
def test_quantised_it_computes_with_the_rounded_weights_and_their_gradients(
    kind: str, family: Any, pipe: Any, new_pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers of tiny networks are smaller than those that are worth it."""
    monkeypatch.setattr(quantised, "LEAST", 64)
    small = load_prior(pipe, call=family.call, quantise=kind)
    rounded = load_prior(new_pipe, call=family.call)
    layers = 0
    for part, exact in zip(small.components(), rounded.components(), strict=True):
        for path, layer in part.module.named_modules():
            if isinstance(layer, QuantisedLinear):
                exact.module.get_submodule(path).weight.data.copy_(layer.assembled())
                layers += 1
    assert layers > 2
    found, expected = clean_and_gradient(small), clean_and_gradient(rounded)
    assert expected[1].norm() > 0
    for one, other in zip(found, expected, strict=True):
        assert gap(one, other) < 1e-4
    assert not torch.equal(found[0], clean_and_gradient(load_prior(pipe, call=family.call))[0])


@pytest.mark.shows("`arch:`")
def test_each_architecture_of_a_family_has_its_pipeline(family: Any, pipe: Any) -> None:
    assert family.architectures
    for name in family.architectures:
        assert PRIOR_ARCHITECTURES[name].pipeline == type(pipe).__name__


def test_every_architecture_is_of_a_family() -> None:
    named = [name for family in FAMILIES for name in family.architectures]
    assert sorted(named) == sorted(PRIOR_ARCHITECTURES)


@pytest.mark.shows("tiny decoder")
def test_the_tiny_decoder_of_each_architecture_reads_its_latents(family: Any) -> None:
    for name in family.architectures:
        found = PRIOR_ARCHITECTURES[name]
        if found.tiny is None:
            pytest.skip("guidance passes the full VAE")
        with torch.device("meta"):
            vae, tiny = network(found.networks["vae"]), network(found.tiny)
        assert (latent_channels(tiny), downscale(tiny)) == (latent_channels(vae), downscale(vae))
        by_hub_id = published_for(vae) is not None
        assert by_hub_id or found.tiny.kind in (
            "taesana",
            "taew2_1",
        )  # which are files of their author's
