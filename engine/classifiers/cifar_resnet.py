"""The small residual networks for 32 px images: He et al., Deep Residual Learning (arXiv 1512.03385), section 4.2."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from engine.errors import ConfigError

WIDTHS = (16, 32, 64)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm and a shortcut without parameters (the paper's option A)."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride = stride
        self.before = (width - width_in) // 2
        self.after = width - width_in - self.before

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))

    def shortcut(self, x: Tensor) -> Tensor:
        """Option A: every `stride`-th pixel, new channels filled with zeros on both sides."""
        kept = x[:, :, :: self.stride, :: self.stride]
        return (
            F.pad(kept, (0, 0, 0, 0, self.before, self.after)) if self.before + self.after else kept
        )


class CifarResNet(nn.Module):
    """ResNet of `depth` = 6 n + 2 layers: three stages of n blocks, halving the size and growing the width.

    Key names are those of the public CIFAR-10 checkpoints (conv1, bn1, layer1..3, linear). Any input size works: the
    last features are averaged over space.
    """

    def __init__(self, depth: int = 20, widths: Sequence[int] = WIDTHS, classes: int = 10) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if blocks < 1 or rest:
            raise ConfigError(
                f"depth of a CIFAR ResNet is {depth}, expected 6 n + 2 with n >= 1: choose 8, 14, 20, 32, 44 "
                "or 56."
            )
        if len(widths) != 3 or any(b < a for a, b in pairwise(widths)) or min(widths) < 1:
            raise ConfigError(
                f"widths of a CIFAR ResNet are {tuple(widths)}, expected three positive numbers that do not "
                "shrink: its shortcuts can only add channels. Correct them; the paper's are (16, 32, 64)."
            )
        first, second, third = widths
        self.conv1 = nn.Conv2d(3, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _stage(first, first, blocks, stride=1)
        self.layer2 = _stage(first, second, blocks, stride=2)
        self.layer3 = _stage(second, third, blocks, stride=2)
        self.linear = nn.Linear(third, classes)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(layer.weight)

    def features(self, x: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) -> what the last layer reads, (N, widths[2])."""
        x = F.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x))).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) -> logits (N, classes)."""
        return self.linear(self.features(x))


def _stage(width_in: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(width_in, width, stride),
        *(BasicBlock(width, width, 1) for _ in range(blocks - 1)),
    )
