"""Networks in float16 and bfloat16 with everything between them in float32."""

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.classifiers.cifar_resnet import CifarResNet
from engine.errors import ConfigError
from engine.guidance.gradient import finite_gradient
from engine.methods import models
from engine.methods.drawing import Drawing
from engine.methods.models import Models
from engine.networks.frozen import named_dtype
from engine.priors import Prior, load_prior
from engine.request import Execution, Request
from engine.runners.asking import asked
from engine.settings import Alignment, Sampling
from engine.settings.inversion import DeepInversion

LABELS = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
HALVES = ("bfloat16", "float16")
WEAK = Alignment(scale=0.02)
"""A long guidance step, of unit length whatever the gradient's, carries any rounding far."""


def load(folder: Path, network: nn.Module, dtype: str) -> tuple[Classifier, Prior]:
    classifier = load_classifier(
        network, labels=LABELS, preprocess=Preprocess.squash(16), device="cpu", dtype=dtype
    )
    return classifier, load_prior(folder, device="cpu", dtype=dtype)


def images_of(drawing: Drawing) -> Tensor:
    return torch.stack([sample.image for sample in drawing.make(drawing.groups()[0])])


@pytest.mark.parametrize("dtype", HALVES)
def test_guided_images_and_gradients_are_near_those_of_float32(
    tiny_prior_folders: dict[str, Path], tiny_resnet: CifarResNet, dtype: str
) -> None:
    found = {}
    z = torch.randn(2, 4, 4, 4)
    for name in ("float32", dtype):
        classifier, prior = load(tiny_prior_folders["v_prediction"], tiny_resnet, name)
        drawing = asked(
            classifier,
            prior,
            ["dog", "horse"],
            1,
            alignment=WEAK,
            sampling=Sampling(steps=3, cfg=2.0),
        ).prepare()
        guidance = drawing.guidance(drawing.groups()[0])
        assert (guidance.scale > 1) == (name == "float16")
        _, grad, _ = finite_gradient(partial(guidance.descend, z), guidance.scale)
        found[name] = images_of(drawing), grad
    (images, grad), (half_images, half_grad) = found["float32"], found[dtype]
    assert images.dtype == half_images.dtype == half_grad.dtype == torch.float32
    assert half_images.isfinite().all()
    assert (half_images - images).abs().mean() < 0.01
    assert not torch.equal(half_images, images)
    assert F.cosine_similarity(half_grad.flatten(), grad.flatten(), 0) > 0.99


@pytest.mark.parametrize("dtype", HALVES)
def test_a_classifier_in_half_precision_keeps_its_statistics_and_its_name(
    tiny_resnet: CifarResNet, dtype: str
) -> None:
    tiny_resnet.bn1.running_var.fill_(1e6)  # float16 ends at 65504
    images = torch.rand(4, 3, 16, 16)
    exact, half = (
        load_classifier(
            tiny_resnet, labels=LABELS, preprocess=Preprocess.squash(16), device="cpu", dtype=name
        )
        for name in ("float32", dtype)
    )
    assert half.fingerprint == exact.fingerprint
    assert half.network.conv1.weight.dtype == half.dtype == getattr(torch, dtype)
    assert half.network.bn1.running_var.max().item() == 1e6
    for kept, expected in zip(half.statistics.stored, exact.statistics.stored, strict=True):
        assert torch.equal(kept.var, expected.var)
    assert half.logits(images).dtype == torch.float32
    torch.testing.assert_close(half.logits(images), exact.logits(images), atol=0.05, rtol=0.05)
    assert half.describe()["dtype"] == f"torch.{dtype}"


@pytest.mark.parametrize("dtype", HALVES)
def test_a_prior_in_half_precision_is_the_same_prior_and_keeps_latents_in_float32(
    tiny_prior: Prior, tiny_prior_folders: dict[str, Path], dtype: str
) -> None:
    half = load_prior(tiny_prior_folders["epsilon"], device="cpu", dtype=dtype)
    assert half.fingerprint == tiny_prior.fingerprint
    z, step = torch.randn(2, 4, 4, 4), half.schedule(3)[1]
    context = half.encode(["a dog", "a horse"], "")
    prediction = half.denoiser(context, 7.5)(z, step)
    assert (context.packed().dtype, half.network.dtype) == (getattr(torch, dtype),) * 2
    assert prediction.clean.dtype == prediction.noise.dtype == half.decode(z).dtype == torch.float32
    single = half.denoiser(context, 1)(z, step).noise
    other = half.denoiser(context.null(), 1)(z, step).noise
    expected = other + 7.5 * (single - other)  # guidance of unrounded halves, in float32
    torch.testing.assert_close(prediction.noise, expected, atol=0.02, rtol=0)
    assert not torch.equal(prediction.noise, prediction.noise.to(half.dtype).float())


def test_what_comes_out_holds_no_graph(tiny_prior: Prior, tiny_resnet: CifarResNet) -> None:
    classifier = load_classifier(
        tiny_resnet, labels=LABELS, preprocess=Preprocess.squash(16), device="cpu"
    )
    drawing = asked(classifier, tiny_prior, ["dog"], 1, sampling=Sampling(steps=3)).prepare()
    seen: list[Tensor] = []
    with torch.enable_grad():
        (sample,) = drawing.make(drawing.groups()[0], on_clean=lambda _, clean: seen.append(clean))
    assert not any(x.requires_grad for x in (sample.image, sample.logits, *seen))
    parts = (tiny_prior.pipe.unet, tiny_prior.vae, tiny_prior.pipe.text_encoder, classifier.network)
    assert not any(
        weight.requires_grad or weight.grad is not None for m in parts for weight in m.parameters()
    )


def test_a_dtype_goes_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert named_dtype(torch.float32, gpu) == torch.float32
    assert named_dtype("auto", gpu) == torch.float16
    for instructions, fastest in (
        ({"avx512_f": True, "avx512_bf16": False}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=instructions: found)
        assert named_dtype("auto", cpu) == fastest
        assert named_dtype("auto", torch.device("meta")) == torch.float32
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # as in torch 2.10
    assert named_dtype("auto", cpu) == torch.float32
    for wrong in ("half", torch.float64, "float8"):
        with pytest.raises(
            ConfigError, match=r"dtype is '\w+', expected one of float32, float16, bfloat16, auto: "
        ):
            named_dtype(wrong, cpu)


@pytest.mark.parametrize(
    ("request_", "device", "expected"),
    [
        (Request(dtype="auto"), "cpu", "auto"),
        (Request(dtype="auto", runtime="onnx"), "cpu", "float32"),  # its arrays have no bfloat16
        (Request(dtype="auto", runtime="onnx"), "cuda", "auto"),
        (Request(dtype="auto", method=DeepInversion()), "cuda", "float32"),
        (Request(dtype="bfloat16", method=DeepInversion()), "cuda", "bfloat16"),
    ],
)
def test_auto_is_float32_where_the_fastest_cannot_be_used(
    request_: Request, device: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "default_device", torch.device)
    assert Models(request_, Execution(device=device)).dtype == expected
