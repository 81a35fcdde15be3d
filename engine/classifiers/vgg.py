"""VGG-8, a plain stack of convolutions: the small VGG of studies of distillation (Tian et al., arXiv 1910.10699)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512, 512)


class Vgg8(nn.Module):
    """Five 3 x 3 convolutions with BatchNorm, a halving after each of the first four, and no shortcuts.

    The last features are averaged over space, so that any input size works.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS, classes: int = 10) -> None:
        super().__init__()
        before = (3, *widths[:-1])
        convs = [
            nn.Conv2d(width_in, width, 3, padding=1, bias=False)
            for width_in, width in zip(before, widths, strict=True)
        ]
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.classifier = nn.Linear(widths[-1], classes)
        for conv in convs:
            nn.init.kaiming_normal_(conv.weight)
        self.convs = nn.ModuleList(convs)

    def features(self, x: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) -> what the last layer reads, (N, widths[-1])."""
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            if number:
                x = F.max_pool2d(x, 2, ceil_mode=True)
            x = F.relu(norm(conv(x)))
        return x.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) -> logits (N, classes)."""
        return self.classifier(self.features(x))
