"""float16 graphs on the CPU: ONNX Runtime casts what it has no float16 kernel for, and errs no more than torch does."""

import copy

import pytest
import torch

from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.guidance.decoder import decoder_of
from engine.guidance.gradient import loss_scale
from engine.guidance.objective import Objective
from engine.onnx.export import exported
from engine.onnx.graphs import denoiser_graph, gradient_graph
from engine.onnx.session import Session
from engine.priors import Prior
from engine.settings import Alignment

pytest.importorskip("onnxruntime")
HALF = torch.float16
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def half_prior(prior: Prior) -> Prior:
    """The small prior in float16."""
    parts = {
        name: copy.deepcopy(getattr(prior.pipe, name)).to(HALF)
        for name in ("unet", "vae", "text_encoder")
    }
    half = prior.replaced(**parts)
    half.fingerprint = "half"
    return half


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Largest error over the largest value."""
    return ((found.float() - exact).abs().max() / exact.abs().max()).item()


@pytest.mark.slow
def test_a_unet_errs_no_more_than_torchs(prior: Prior, half_prior: Prior, cache):
    session = Session(exported(denoiser_graph(half_prior), cache), CPU)
    assert session.dtypes == (HALF, torch.int64, HALF)
    length, width = (
        prior.pipe.tokenizer.model_max_length,
        prior.pipe.unet.config.cross_attention_dim,
    )
    z, context = torch.randn(2, *prior.latent_shape(1)[1:]), torch.randn(2, length, width)
    step = torch.tensor(7)
    with torch.no_grad():
        exact = prior.pipe.unet(z, step, encoder_hidden_states=context, return_dict=False)[0]
        half = half_prior.pipe.unet(
            z.to(HALF), step, encoder_hidden_states=context.to(HALF), return_dict=False
        )[0]
    (found,) = session(z, step, context)
    assert found.dtype == HALF
    assert 0 < error(found, exact) <= 2 * error(half, exact) + 1e-3


@pytest.mark.slow
def test_a_gradient_errs_no_more_than_torchs(
    prior: Prior, half_prior: Prior, smooth: Classifier, cache
):
    half = load_classifier(
        copy.deepcopy(smooth.network),
        labels=smooth.labels,
        preprocess=Preprocess.squash(12),
        device="cpu",
        dtype=HALF,
    )
    alignment = Alignment(class_weight=0.0)
    z = torch.randn(3, *prior.latent_shape(1)[1:]).to(HALF).float()

    def by_torch(prior: Prior, classifier: Classifier):
        decoder = decoder_of(alignment, prior, classifier.preprocess)
        objective = Objective(classifier, alignment, decoder, fused=False)
        scale = loss_scale(decoder.vae.dtype, classifier.dtype)
        return decoder, objective.value_and_grad(z, scale=scale)

    _, (exact_loss, exact) = by_torch(prior, smooth)
    decoder, (half_loss, half_grad) = by_torch(half_prior, half)
    session = Session(exported(gradient_graph(half_prior, half, alignment, decoder), cache), CPU)
    loss, grad = session(z)
    assert grad.dtype == torch.float32
    assert error(loss, exact_loss) <= 2 * error(half_loss, exact_loss) + 1e-3
    assert error(grad, exact) <= 2 * error(half_grad, exact) + 1e-3
