"""Small networks that use BatchNorm in every way that is known to matter, frozen, with lived-in statistics."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification

from engine.classifiers.cifar_resnet import CifarResNet


class SharedRelu(nn.Module):
    """torchvision's BasicBlock: one in-place ReLU module for both BatchNorm layers, the second behind the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(3, 3, 3, padding=1, bias=False) for _ in range(2))
        self.bn1, self.bn2 = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


class Calls(nn.Module):
    """A convolution, one BatchNorm layer, and what the test says to do with them."""

    def __init__(self, use: Callable[["Calls", Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.use = use
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self, self.conv(x))

    def keep(self, x: Tensor) -> Tensor:
        self.kept = self.bn(x)
        return self.kept.relu()


class NormAct(nn.BatchNorm2d):
    """As timm's BatchNormAct2d: the layer ends with an activation of its own."""

    def __init__(self, channels: int, act: nn.Module) -> None:
        super().__init__(channels)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


class FrozenBatchNorm2d(nn.Module):
    """As torchvision's: buffers, and arithmetic of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.eps = 1e-3
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


def stack(*layers: nn.Module) -> nn.Sequential:
    """The layers between two convolutions."""
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, bias=False), *layers, nn.Conv2d(5, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
    )


def used(use: Callable[[Tensor], Tensor]) -> Calls:
    """A network that does this with what its BatchNorm layer returns."""
    return Calls(lambda net, x: use(net.bn(x)))


def late(net: Calls, x: Tensor) -> Tensor:
    """Both outputs are there before either is activated."""
    first, second = net.bn(x), net.bn(x + 1)
    return F.silu(second) + 2 * F.silu(first)


def transformers_resnet() -> nn.Module:
    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=4, hidden_sizes=[4, 6], depths=[1, 2], layer_type="basic", num_labels=3
        )
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "relu": (lambda: stack(nn.BatchNorm2d(5), nn.ReLU()), ["relu", "relu"]),
    "relu in place": (lambda: stack(nn.BatchNorm2d(5), nn.ReLU(inplace=True)), ["relu", "relu"]),
    "silu": (lambda: stack(nn.BatchNorm2d(5), nn.SiLU()), ["silu", "relu"]),
    "silu in place": (lambda: stack(nn.BatchNorm2d(5), nn.SiLU(inplace=True)), ["silu", "relu"]),
    "relu6": (lambda: stack(nn.BatchNorm2d(5), nn.ReLU6()), ["none", "relu"]),
    "gelu": (lambda: stack(nn.BatchNorm2d(5), nn.GELU()), ["none", "relu"]),
    "relu twice": (lambda: stack(nn.BatchNorm2d(5), nn.ReLU(), nn.ReLU()), ["relu", "relu"]),
    "silu twice": (lambda: stack(nn.BatchNorm2d(5), nn.SiLU(), nn.SiLU()), ["silu", "relu"]),
    "two layers in a row": (
        lambda: stack(nn.BatchNorm2d(5), nn.BatchNorm2d(5), nn.ReLU()),
        ["none", "relu", "relu"],
    ),
    "without parameters": (
        lambda: stack(nn.BatchNorm2d(5, affine=False), nn.ReLU()),
        ["relu", "relu"],
    ),
    "synchronised": (lambda: stack(nn.SyncBatchNorm(5), nn.ReLU()), ["relu", "relu"]),
    "its own relu": (lambda: stack(NormAct(5, nn.ReLU(inplace=True))), ["relu", "relu"]),
    "its own silu, then relu": (lambda: stack(NormAct(5, nn.SiLU()), nn.ReLU()), ["silu", "relu"]),
    "its own gelu": (lambda: stack(NormAct(5, nn.GELU()), nn.ReLU()), ["measured", "relu"]),
    "its own leaky relu": (lambda: stack(NormAct(5, nn.LeakyReLU(0.01))), ["measured", "relu"]),
    "frozen": (lambda: stack(FrozenBatchNorm2d(5), nn.ReLU()), ["relu", "relu"]),
    "flat": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.BatchNorm1d(6), nn.ReLU()),
        ["relu"],
    ),
    "method": (lambda: used(Tensor.relu), ["relu"]),
    "method in place": (lambda: used(Tensor.relu_), ["relu"]),
    "function in place": (lambda: used(lambda y: F.relu(y, True) + y), ["relu"]),
    "clamp": (lambda: used(lambda y: y.clamp(min=0)), ["none"]),
    "read twice": (lambda: used(lambda y: F.silu(y) + y), ["none"]),
    "read before": (lambda: used(lambda y: y.mean() + y.relu_()), ["none"]),
    "read as a view": (lambda: used(lambda y: F.silu(y) + y.flatten().sum()), ["none"]),
    "both signs": (lambda: used(lambda y: F.relu(y) - F.relu(-y)), ["none"]),
    "a part": (lambda: used(lambda y: F.silu(y[:, :2])), ["none"]),
    "two activations": (lambda: used(lambda y: F.relu(y) + F.silu(y)), ["none"]),
    "returned": (lambda: used(lambda y: (F.relu(y), y)[1]), ["none"]),
    "kept": (lambda: Calls(Calls.keep), ["none"]),
    "shared, alike": (
        lambda: Calls(lambda net, x: F.silu(net.bn(F.silu(net.bn(x))))),
        ["silu"] * 2,
    ),
    "shared, unlike": (lambda: Calls(lambda net, x: net.bn(F.silu(net.bn(x)))), ["none"] * 2),
    "late": (lambda: Calls(late), ["silu"] * 2),
    "residual": (SharedRelu, ["relu", "none"]),
    "cifar": (
        lambda: CifarResNet(depth=8, widths=(4, 6, 8), classes=7),
        ["relu", *["relu", "none"] * 3],
    ),
    "transformers": (
        transformers_resnet,
        ["relu", "relu", "none", "relu", "none", "none", "relu", "none"],
    ),
}
"""How to build each, and what its BatchNorm layers shall be fused with, in call order."""


def lived_in(network: nn.Module) -> nn.Module:
    """The network, frozen, with random affine parameters and the statistics of a few random batches."""
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.affine:
                nn.init.uniform_(layer.weight, -1, 2)
                nn.init.normal_(layer.bias)
        for _ in range(5):
            network.train()(torch.randn(16, 3, 8, 8))
    return network.eval().requires_grad_(False)


@pytest.fixture(params=NETWORKS, ids=str)
def network_and_pairs(request: pytest.FixtureRequest) -> tuple[nn.Module, list[str]]:
    """Each network of `NETWORKS` in turn, and what its layers shall be fused with."""
    build, pairs = NETWORKS[request.param]
    return lived_in(build()), pairs


@pytest.fixture
def build() -> Callable[[str], nn.Module]:
    """build(name): one of `NETWORKS`."""
    return lambda name: lived_in(NETWORKS[name][0]())


@pytest.fixture
def calls() -> Callable[[Callable[[Calls, Tensor], Tensor]], nn.Module]:
    """calls(use): a network of one BatchNorm layer `bn` whose forward is use(network, what its convolution returns)."""
    return lambda use: lived_in(Calls(use))
