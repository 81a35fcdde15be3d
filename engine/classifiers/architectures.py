"""Networks that a bare checkpoint can be loaded into, by name. Widths and classes are read off the weights' shapes."""

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification

from engine.classifiers.cifar_resnet import WIDTHS as CIFAR_WIDTHS
from engine.classifiers.cifar_resnet import CifarResNet
from engine.classifiers.preprocess import Preprocess
from engine.classifiers.vgg import WIDTHS, Vgg8
from engine.errors import ModelError

StateDict = Mapping[str, Tensor]
RESIDUAL = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
TORCHVISION_KEYS = (
    (r"^conv1\.", "resnet.embedder.embedder.convolution."),
    (r"^bn1\.", "resnet.embedder.embedder.normalization."),
    (r"^(fc|linear)\.", "classifier.1."),
    (r"^layer(\d)\.(\d+)\.(?:downsample|shortcut)\.0\.", r"layer\1.\2.shortcut.convolution."),
    (r"^layer(\d)\.(\d+)\.(?:downsample|shortcut)\.1\.", r"layer\1.\2.shortcut.normalization."),
    (r"^layer(\d)\.(\d+)\.conv(\d)\.", r"layer\1.\2.layer.\3-.convolution."),
    (r"^layer(\d)\.(\d+)\.bn(\d)\.", r"layer\1.\2.layer.\3-.normalization."),
    (r"^layer(\d)\.(\d+)\.", r"resnet.encoder.stages.\1-.layers.\2."),
)
"""Names of torchvision and of CIFAR code for parts of a ResNet, and transformers', which count from 0: `3-` is 2."""
STEM = "resnet.embedder.embedder.convolution.weight"
LARGE_KERNEL, CIFAR_KERNEL = 7, 3
CIFAR_STEM = "-cifar"
"""How the names of ResNets end whose stem is a 3x3 convolution of stride 1 without max-pooling."""


class Architecture(NamedTuple):
    """A network that is known by its name.

    build: the network that a checkpoint fits. preprocess: what it reads by default. new: one with random weights, for
    so many classes, whose widths are the published ones divided by a number.
    """

    build: Callable[[StateDict], tuple[nn.Module, StateDict]]
    preprocess: Preprocess
    new: Callable[[int, int], nn.Module]


def cifar_resnet(depth: int) -> Callable[[StateDict], tuple[nn.Module, StateDict]]:
    """ResNet 20, 32, 44, 56 for 32 px images, of any widths."""

    def build(weights: StateDict) -> tuple[nn.Module, StateDict]:
        widths = tuple(len(weights[f"layer{stage}.0.conv2.weight"]) for stage in (1, 2, 3))
        return CifarResNet(depth, widths, classes=len(weights["linear.weight"])), weights

    return build


def resnet(
    depth: int, cifar_stem: bool = False
) -> Callable[[StateDict], tuple[nn.Module, StateDict]]:
    """ResNet 18, 34, 50 as transformers builds them, from its own keys or torchvision's.

    cifar_stem: begins with a 3x3 convolution of stride 1 and no pooling, for small images.
    """

    def build(weights: StateDict) -> tuple[nn.Module, StateDict]:
        if "conv1.weight" in weights:
            weights = {_from_torchvision(key): value for key, value in weights.items()}
        _check_stem(depth, cifar_stem, weights[STEM])
        last = 2 if depth >= 50 else 1
        stages = (
            f"resnet.encoder.stages.{stage}.layers.0.layer.{last}.convolution.weight"
            for stage in range(4)
        )
        config = residual_config(
            depth,
            embedding_size=len(weights[STEM]),
            hidden_sizes=[len(weights[key]) for key in stages],
            num_labels=len(weights["classifier.1.weight"]),
        )
        network = ResNetForImageClassification(config)
        return (_with_cifar_stem(network) if cifar_stem else network), weights

    return build


def _check_stem(depth: int, cifar_stem: bool, weight: Tensor) -> None:
    """Raise ModelError where the first convolution is another network's: its steps and poolings are not in a file."""
    kernel = CIFAR_KERNEL if cifar_stem else LARGE_KERNEL
    if weight.shape[2:] == (kernel, kernel):
        return
    sides = " x ".join(map(str, weight.shape[2:]))
    known = {
        LARGE_KERNEL: (f"resnet{depth}", "stride 2 and max-pooling, for large images"),
        CIFAR_KERNEL: (f"resnet{depth}{CIFAR_STEM}", "stride 1 and no pooling, for small images"),
    }
    name, what = known.get(weight.shape[-1], ("", ""))
    advice = (
        f"{name} has that one, with {what}: set `architecture` to it if that is how it was trained"
        if name
        else "only Python code can say what it is: build the network there, and hand it over"
    )
    raise ModelError(
        f"its first convolution has a kernel of {sides}, expected {kernel} x {kernel}; {advice}."
    )


def _with_cifar_stem(network: nn.Module) -> nn.Module:
    embeddings: Any = network.get_submodule("resnet.embedder")
    width = embeddings.embedder.convolution.out_channels
    embeddings.embedder.convolution = nn.Conv2d(3, width, CIFAR_KERNEL, padding=1, bias=False)
    embeddings.pooler = nn.Identity()
    return network


def new_resnet(depth: int, cifar_stem: bool = False) -> Callable[[int, int], nn.Module]:
    """ResNet 18, 34, 50 with random weights."""

    def new(classes: int, divisor: int) -> nn.Module:
        published = residual_config(depth, num_labels=classes)
        config = residual_config(
            depth,
            num_labels=classes,
            embedding_size=published.embedding_size // divisor,
            hidden_sizes=[width // divisor for width in published.hidden_sizes],
        )
        network = ResNetForImageClassification(config)
        return _with_cifar_stem(network) if cifar_stem else network

    return new


def vgg8(weights: StateDict) -> tuple[nn.Module, StateDict]:
    """VGG-8 of any widths."""
    widths = [len(weights[f"convs.{number}.weight"]) for number in range(len(WIDTHS))]
    return Vgg8(widths, classes=len(weights["classifier.weight"])), weights


def residual_config(depth: int, **widths: object) -> ResNetConfig:
    """The config of ResNet 18, 34 or 50, as published for ImageNet but for the widths that are given."""
    bottleneck = depth >= 50
    published = {
        "hidden_sizes": [256, 512, 1024, 2048] if bottleneck else [64, 128, 256, 512],
        "num_labels": 1000,
    }
    return ResNetConfig(
        depths=list(RESIDUAL[depth]),
        layer_type="bottleneck" if bottleneck else "basic",
        **(published | widths),
    )


def _from_torchvision(key: str) -> str:
    for pattern, replacement in TORCHVISION_KEYS:
        key = re.sub(pattern, replacement, key)
    return re.sub(r"(\d)-", lambda found: str(int(found[1]) - 1), key)


def new_cifar_resnet(depth: int) -> Callable[[int, int], nn.Module]:
    """ResNet 8 to 56 for 32 px images, with random weights."""
    return lambda classes, divisor: CifarResNet(
        depth, [width // divisor for width in CIFAR_WIDTHS], classes
    )


def new_vgg8(classes: int, divisor: int) -> nn.Module:
    """VGG-8 with random weights."""
    return Vgg8([width // divisor for width in WIDTHS], classes)


CIFAR = Preprocess.squash(32)
LARGE = Preprocess(crop=(224, 224), resize=256)
ARCHITECTURES = {
    **{
        f"resnet{depth}": Architecture(cifar_resnet(depth), CIFAR, new_cifar_resnet(depth))
        for depth in (8, 14, 20, 32, 44, 56)
    },
    **{
        f"resnet{depth}": Architecture(resnet(depth), LARGE, new_resnet(depth))
        for depth in RESIDUAL
    },
    **{
        f"resnet{depth}{CIFAR_STEM}": Architecture(
            resnet(depth, True), CIFAR, new_resnet(depth, True)
        )
        for depth in RESIDUAL
    },
    "vgg8": Architecture(vgg8, CIFAR, new_vgg8),
}


def architecture_of(network: nn.Module) -> str | None:
    """Which of `ARCHITECTURES` reads this network's weights and computes what it does; None where none does."""
    weights = {key: value.detach().float().cpu() for key, value in network.state_dict().items()}
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    own = copy.deepcopy(network).float().cpu()
    for name, architecture in ARCHITECTURES.items():
        try:
            twin, fitting = architecture.build(weights)
            twin.eval().load_state_dict(fitting)
        except (KeyError, RuntimeError, ModelError):
            continue
        return (
            name
            if _scores(twin, images).allclose(_scores(own, images), rtol=1e-3, atol=1e-3)
            else None
        )
    return None


@torch.no_grad()
def _scores(network: nn.Module, images: Tensor) -> Tensor:
    place = next(network.parameters())
    output = network(images.to(place.device, place.dtype))
    return getattr(output, "logits", output).float().cpu()
