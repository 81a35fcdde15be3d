"""Two networks that only the autoencoder's training looks through: features that judge likeness, and a critic."""

from pathlib import Path

import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.parametrizations import spectral_norm

from engine.embedded.train.augment import jittered
from engine.embedded.train.data import Images, random_index, random_views
from engine.embedded.train.loop import Recipe, train
from engine.embedded.train.machine import CPU, Machine

RECIPE = Recipe(steps=600, batch=48, learning_rate=2e-3, weight_decay=0.05, averaging=0.995)
WIDTHS = (32, 48, 96, 192)
CRITIC_WIDTHS = (32, 64, 96)
SMALL_UNTIL = 0.5
"""The first share of the run sees views of three quarters of the side."""


class Residual(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm, and a shortcut that is convolved where the shape changes."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if width_in != width or stride > 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class Perception(nn.Module):
    """A small ResNet that tells the pairs of domain and class apart, whose features say how alike two images are."""

    def __init__(self, pairs: int) -> None:
        super().__init__()
        first, *rest = WIDTHS
        self.stem = nn.Conv2d(3, first, 5, 2, 2, bias=False)
        self.norm = nn.BatchNorm2d(first)
        stages, width = [], first
        for number, wider in enumerate(rest):
            stride = 2 if number else 1
            stages.append(nn.Sequential(Residual(width, wider, stride), Residual(wider, wider, 1)))
            width = wider
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(width, pairs)

    def features(self, images: Tensor) -> list[Tensor]:
        """Images (N, 3, H, W) in [0, 1] -> four maps, at a half, a half, a quarter and an eighth of the side."""
        maps = [F.relu(self.norm(self.stem((images - 0.5) / 0.25)))]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1] -> logits (N, pairs)."""
        return self.head(self.features(images)[-1].mean((2, 3)))

    def distance(self, images: Tensor, wanted: Tensor) -> Tensor:
        """Mean over maps of the squared distance between two batches' features, relative to that of `wanted` from 0."""
        parts = []
        for found, aim in zip(self.features(images), self.features(wanted), strict=True):
            found, aim = found.float(), aim.detach().float()
            error = (found - aim).square().sum(1).mean()
            parts.append(error / (aim.square().sum(1).mean() + 1e-6))
        return sum(parts, start=images.new_zeros(())) / len(parts)


class Critic(nn.Module):
    """A patch discriminator with spectral normalisation: images (N, 3, H, W) -> scores (N, 1, H/8, W/8)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for wider in CRITIC_WIDTHS:
            layers += [spectral_norm(nn.Conv2d(width, wider, 4, 2, 1)), nn.LeakyReLU(0.2)]
            width = wider
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv2d(width, 1, 3, 1, 1)))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def train_perception(
    images: Images, resolution: int, recipe: Recipe, folder: Path, machine: Machine = CPU
) -> Perception:
    """Train the features on labelled images, none of which guidance or a figure may see."""
    pairs = images.pairs
    model = machine.place(Perception(int(pairs.max()) + 1))
    fast = machine.fast(model)
    images = images.to(machine.device)
    pairs = images.pairs

    def loss(rng: Generator, progress: float) -> Tensor:
        index = random_index(len(images), machine.share(recipe.batch), rng)
        side = resolution * 3 // 4 if progress < SMALL_UNTIL else resolution
        views = jittered(random_views(images.pixels[index], side, rng, smallest=0.6), rng)
        return cross_entropy(fast(views), pairs[index], label_smoothing=0.1)

    train(model, loss, recipe, folder, machine)
    return model.eval().requires_grad_(False)
