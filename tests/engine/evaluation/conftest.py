"""Sets of features, and folders of images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor


@pytest.fixture(scope="module")
def two_sets() -> tuple[Tensor, Tensor]:
    """Samples (413, 24) and reference (350, 24): correlated, overlapping, float32, far from 0."""
    rng = torch.Generator().manual_seed(3)
    mixing = torch.randn(24, 24, generator=rng) / 5
    reference = torch.randn(350, 24, generator=rng) @ mixing + 3
    samples = 0.8 * torch.randn(413, 24, generator=rng) @ mixing + 3.05
    return samples, reference


@pytest.fixture
def make_folder() -> Callable[..., Path]:
    """(folder, number, side, brightness) -> noise images in two class folders."""

    def make(
        folder: Path, number: int, side: int = 32, brightness: int = 255, seed: int = 0
    ) -> Path:
        rng = np.random.default_rng(seed)
        for index in range(number):
            place = folder / ("dog" if index % 2 else "horse") / f"{index:03d}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, brightness, (side, side, 3), np.uint8)).save(place)
        return folder

    return make
