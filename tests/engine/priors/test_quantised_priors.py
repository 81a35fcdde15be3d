"""Priors whose linear layers take 4.5 or 8 bits: near the exact ones, with gradients, and tokens learned in them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from engine import Alignment, Sampling, TokenLearning, generate, learn_tokens
from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.classifiers.cifar_resnet import CifarResNet
from engine.memory.learning_phases import checkpointed
from engine.networks.quantised import KINDS, QuantisedLinear
from engine.priors import Prior

SAMPLING = Sampling(steps=2, batch=1, cfg=3.0)
LEARNING = TokenLearning(
    epochs=1,
    images_per_epoch=1,
    updates_per_trajectory=1,
    skip_passing=False,
    check_images=0,
    target_accuracy=1.0,
    init="random",
)
FAR = {"nf4": 0.6, "int8": 0.03}
"""More than linear layers of a tiny random network may change what it predicts, or a gradient through it, which
processors round differently."""


@pytest.fixture(scope="session", params=["sdxl", "sd3", "flux-dev"])
def family_name(request: pytest.FixtureRequest) -> str:
    """One family of each kind of network."""
    return request.param


@pytest.fixture(scope="session")
def prior(family_name: str, prior_of: Callable[..., Prior]) -> Prior:
    return prior_of(family_name)


@pytest.fixture(scope="session", params=KINDS)
def quantised(
    request: pytest.FixtureRequest, family_name: str, prior_of: Callable[..., Prior]
) -> Prior:
    return prior_of(family_name, quantise=request.param)


def clean_and_gradient(prior: Prior, recomputes: bool = False) -> tuple[Tensor, Tensor]:
    """The clean latents of one step, and the gradient of their square by the prompt's context."""
    step = prior.schedule(2)[-1]
    with torch.no_grad():
        context = prior.encode(["a dog"])
    leaf = context.packed().detach().requires_grad_()
    z = prior.noise([torch.Generator().manual_seed(5)], 2)
    with checkpointed([prior.network] if recomputes else []):
        clean = prior.denoiser(context.with_packed(leaf), 1.0)(z, step).clean
        (gradient,) = torch.autograd.grad(clean.square().mean(), leaf)
    return clean.detach(), gradient


def gap(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def test_predictions_and_gradients_are_near_the_exact_ones(prior: Prior, quantised: Prior) -> None:
    layers = [part for part in quantised.network.modules() if isinstance(part, QuantisedLinear)]
    assert layers
    assert not any(isinstance(part, QuantisedLinear) for part in prior.network.modules())
    clean, gradient = clean_and_gradient(quantised)
    exact, expected = clean_and_gradient(prior)
    assert 0 < gap(clean, exact) < FAR[quantised.quantise]
    assert 0 < gap(gradient, expected) < FAR[quantised.quantise]


def test_recomputed_in_backward_the_gradient_is_the_same(quantised: Prior) -> None:
    _, kept = clean_and_gradient(quantised)
    _, recomputed = clean_and_gradient(quantised, recomputes=True)
    torch.testing.assert_close(recomputed, kept, rtol=1e-4, atol=1e-7)


def test_images_are_drawn_and_tokens_learned_through_them(
    quantised: Prior, prior: Prior, tiny_resnet: CifarResNet
) -> None:
    classifier: Classifier = load_classifier(
        tiny_resnet, labels=list("abcdefg"), preprocess=Preprocess.squash(16), device="cpu"
    )
    table = learn_tokens(classifier, quantised, ["a"], LEARNING, sampling=SAMPLING)
    assert table.rows.isfinite().all()
    (made,) = generate(
        classifier, quantised, ["a"], 1, sampling=SAMPLING, alignment=Alignment(), tokens=table
    )
    assert made.token
    assert made.image.isfinite().all()
    assert quantised.fingerprint == prior.fingerprint  # tokens are for the weights as published
    assert quantised.describe()["quantise"] == quantised.quantise
    assert "quantise" not in prior.describe()
