"""The judge: one network over all domains that says class and domain. For evaluation only, never for guidance.

With it come its features of the real images that classifiers were trained on, so that distances to a domain can be
computed without the data.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import ResNetForImageClassification

from engine.classifiers.architectures import residual_config
from engine.classifiers.cifar_resnet import CifarResNet
from engine.networks.frozen import freeze
from engine.settings.sources import EMBEDDED

FOLDER = EMBEDDED / "judge"


class JudgeNet(nn.Module):
    """A small ResNet trunk with two heads: three widths are those of a CIFAR ResNet, four of one for larger images."""

    def __init__(self, depth: int, widths: tuple[int, ...], classes: int, domains: int) -> None:
        super().__init__()
        self.trunk: CifarResNet | ResNetForImageClassification
        if len(widths) == 3:
            self.trunk = CifarResNet(depth, widths, classes)
        else:
            config = residual_config(
                depth, embedding_size=widths[0], hidden_sizes=list(widths), num_labels=classes
            )
            self.trunk = ResNetForImageClassification(config)
        self.domain = nn.Linear(widths[-1], domains)

    def features(self, images: Tensor) -> Tensor:
        """Images (N, 3, r, r) in [0, 1] -> (N, widths[-1])."""
        images = (images - 0.5) / 0.25
        if isinstance(self.trunk, CifarResNet):
            return self.trunk.features(images)
        return self.trunk.resnet(images).pooler_output.flatten(1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 3, r, r) in [0, 1] -> logits of the classes (N, 7) and of the domains (N, 4)."""
        features = self.features(images)
        return self.class_logits(features), self.domain(features)

    def class_logits(self, features: Tensor) -> Tensor:
        """Features (N, widths[-1]) -> logits of the classes (N, 7)."""
        last = self.trunk.linear if isinstance(self.trunk, CifarResNet) else self.trunk.classifier
        return last(features)


@dataclass(frozen=True, eq=False, kw_only=True)
class Judge:
    """The frozen judge and what it saw. reference: features (M, F) of real images, their classes and domains (M,)."""

    network: JudgeNet
    resolution: int
    classes: tuple[str, ...]
    domains: tuple[str, ...]
    reference: Tensor
    reference_classes: Tensor
    reference_domains: Tensor

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 3, H, W) in [0, 1] -> class (N,) and domain (N,)."""
        classes, domains = self.logits(images)
        return classes.argmax(1), domains.argmax(1)

    @torch.no_grad()
    def logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 3, H, W) in [0, 1] -> logits of the classes (N, 7) and domains (N, 4), averaged over a flip."""
        views = self._sized(images)
        (classes, domains), (again, also) = self.network(views), self.network(views.flip(3))
        return (classes + again) / 2, (domains + also) / 2

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1] -> features (N, F), float32."""
        return self.network.features(self._sized(images))

    def _sized(self, images: Tensor) -> Tensor:
        size = (self.resolution, self.resolution)
        return (
            images
            if images.shape[2:] == size
            else interpolate(images, size, mode="bilinear", antialias=True)
        )


def load_judge(folder: Path = FOLDER) -> Judge:
    """The judge that comes with the package."""
    facts = json.loads((folder / "config.json").read_text())
    network = JudgeNet(
        facts["depth"], tuple(facts["widths"]), len(facts["classes"]), len(facts["domains"])
    )
    network.load_state_dict(load_file(folder / "model.safetensors"))
    kept = load_file(folder / "reference.safetensors")
    freeze(network)
    return Judge(
        network=network,
        resolution=facts["resolution"],
        classes=tuple(facts["classes"]),
        domains=tuple(facts["domains"]),
        reference=kept["features"].float(),
        reference_classes=kept["classes"].long(),
        reference_domains=kept["domains"].long(),
    )
