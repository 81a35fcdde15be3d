"""The judge: one network over all domains that says class and domain. For evaluation only, never for guidance.

With it come its features of the real training images, so that distances to them can be computed without the data.
"""

from torch import Tensor, nn

from engine.models.cifar_resnet import CifarResNet


class JudgeNet(nn.Module):
    """A small ResNet trunk with two heads. Images (N, 3, H, W) in [0, 1] -> logits of classes and of domains."""

    def __init__(self, depth: int, widths: tuple[int, int, int], classes: int, domains: int) -> None:
        super().__init__()
        self.trunk = CifarResNet(depth, widths, classes)
        self.domain = nn.Linear(widths[2], domains)

    def features(self, images: Tensor) -> Tensor:
        """(N, widths[2])."""
        return self.trunk.features((images - 0.5) / 0.25)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(images)
        return self.trunk.linear(features), self.domain(features)
