"""timm's and torchvision's networks, fused. Run by `make test-timm`; nothing is downloaded."""

import pytest
import torch

from engine.classifiers import Preprocess
from engine.classifiers.statistics import Examined
from engine.classifiers.statistics.batch_norm import batch_norm
from engine.guidance.fused import fused_moments
from engine.guidance.moments import recording_moments
from engine.guidance.pairing import pair

pytestmark = pytest.mark.timm


@pytest.mark.parametrize(
    ("library", "name", "activated"),
    [
        (
            "torchvision",
            "resnet18",
            9,
        ),  # bn1 of each block and of the stem; one ReLU module a block
        ("torchvision", "resnet50", 33),
        ("torchvision", "googlenet", 57),  # functional, in place
        ("torchvision", "densenet121", 121),
        ("timm", "resnet18", 9),
        ("timm", "densenet121", 121),  # BatchNormAct2d
        ("timm", "efficientnet_b0", 33),  # BatchNormAct2d with SiLU, and some without
        ("timm", "mobilenetv3_small_100", 5),  # hard swish is left to the layer
    ],
)
def test_it_measures_and_differentiates_as_the_hooks_do(
    library: str, name: str, activated: int
) -> None:
    if library == "timm":
        network = pytest.importorskip("timm").create_model(name, pretrained=False)
    else:
        options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
        network = pytest.importorskip("torchvision").models.get_model(name, weights=None, **options)
    network.eval().requires_grad_(False)
    x = torch.randn(2, 3, 64, 64)
    taps = batch_norm(
        Examined(network, lambda: network(x[:1]), Preprocess.squash(x.shape[-1]))
    ).taps
    results = []
    for measuring in (recording_moments(taps), fused_moments(network)):
        leaf = x.clone().requires_grad_()
        with measuring as measured:
            logits = network(leaf)
            loss = (
                torch.stack([m.mean.square().sum() + m.var.sum() for m in measured]).sum()
                + logits.sum()
            )
            results.append([logits.detach(), loss.detach(), *torch.autograd.grad(loss, leaf)])
    for got, expected in zip(*reversed(results), strict=True):
        torch.testing.assert_close(
            got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())
        )
    plan = pair([tap.layer for tap in taps], lambda: network(x))
    assert sum(how is not None and how.activation != "none" for how in plan.values()) == activated
