"""A guided step neither waits for values of the device nor copies any there: 'meta', which has none, plays a GPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.classifiers.cifar_resnet import CifarResNet
from engine.guidance.decoder import decoder_of
from engine.guidance.gradient import HALF_SCALE, fitted, gradient
from engine.guidance.move import Guidance, guided
from engine.guidance.objective import Objective
from engine.memory.skeleton import skeleton_classifier, skeleton_prior
from engine.priors import Prior, hollow
from engine.sampling.loop import sample
from engine.settings import Alignment

MAKERS = (torch.tensor, torch.as_tensor, torch.from_numpy, Tensor.new_tensor)
READERS = (
    Tensor.item,
    Tensor.tolist,
    Tensor.cpu,
    Tensor.numpy,
    Tensor.__bool__,
    Tensor.__float__,
    Tensor.__int__,
)


class _NoValues(TorchFunctionMode):
    """Refuses to make tensors of host values, to take tensors elsewhere, and to read those of the device."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        on_device = any(
            isinstance(value, Tensor) and value.is_meta for value in tree_leaves((args, kwargs))
        )
        if func in MAKERS or (func in READERS and on_device):
            raise AssertionError(f"{func} is called in a guided step")
        out = func(*args, **(kwargs or {}))
        if func is Tensor.to and out.device != args[0].device:
            raise AssertionError(
                f"a tensor of {args[0].device} is copied to {out.device} in a guided step"
            )
        return out


@pytest.fixture
def classifier(tiny_resnet: CifarResNet) -> Classifier:
    own = load_classifier(
        tiny_resnet, labels=list("abcdefg"), preprocess=Preprocess.squash(16), device="cpu"
    )
    return skeleton_classifier(own)


@pytest.mark.parametrize("scale", [1.0, HALF_SCALE], ids=["float32", "float16"])
@pytest.mark.parametrize(
    "alignment", [Alignment(layers="uniform"), Alignment.paper()], ids=["ours", "paper"]
)
def test_nothing_crosses_in_a_guided_step(
    small_prior: Prior,
    classifier: Classifier,
    alignment: Alignment,
    scale: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a group's steps the first guided one may wait: it looks whether float16 overflows."""
    monkeypatch.setattr(hollow, "is_hollow", lambda _: False)  # as for a device with values
    prior = skeleton_prior(small_prior)
    decode = decoder_of(alignment, prior, classifier.preprocess)
    guidance = guided(
        Objective(classifier, alignment, decode),
        alignment,
        torch.zeros(2, dtype=torch.int64, device="meta"),
        scale,
        lambda images, work: work(images),
    )
    guidance._scale = torch.empty((), device="meta")  # of the step before
    z, context = torch.empty(prior.latent_shape(2), device="meta"), prior.encode(["a"] * 2, "")
    step = prior.schedule(30)[10]
    assert guidance.acts_on(step)
    with torch.no_grad():
        denoise = guidance.before(prior.denoiser(context, 5.0))
        sample(z, denoise, [step], guidance.move)  # what is made once
        with _NoValues():
            sample(z, denoise, [step], guidance.move)
    assert len(guidance.curve) == len(guidance.taken) == 2


def test_the_first_step_of_float16_alone_is_looked_at() -> None:
    guidance = Guidance(
        lambda z, scale: gradient(z, lambda z: z.square().sum((1, 2, 3)), fitted(scale)),
        Alignment(),
        HALF_SCALE,
    )
    step = type(
        "", (), {"index": 3, "total": 10, "is_last": False, "noise": 0.7, "uncertainty": 1.0}
    )()
    z = torch.randn(2, 4, 3, 3)
    looks: list[Tensor] = []

    class Looks(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is Tensor.__bool__:
                looks.append(args[0])
            return func(*args, **(kwargs or {}))

    with Looks():
        for _ in range(3):
            guidance.move(z, step)
    assert len(looks) == 1


def test_preprocessing_copies_its_constants_once() -> None:
    preprocess, images = (
        Preprocess.squash(8, (0.11, 0.2, 0.3), (0.7, 0.8, 0.9)),
        torch.rand(2, 3, 8, 8),
    )
    with torch.inference_mode():
        first = preprocess(images)
    with _NoValues():
        leaf = images.clone().requires_grad_()
        again = preprocess(leaf)
        (grad,) = torch.autograd.grad(again.sum(), leaf)
    assert torch.equal(first, again)
    mean, std = (images.new_tensor(v).view(1, 3, 1, 1) for v in (preprocess.mean, preprocess.std))
    assert torch.equal(again, (images - mean) / std)
    assert torch.allclose(grad, (1 / std).expand_as(grad))
