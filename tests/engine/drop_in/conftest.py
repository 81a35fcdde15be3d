"""A tiny Stable Diffusion that its user calls."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.priors import Prior


@pytest.fixture
def pipe(small_prior: Prior) -> Any:
    """The pipeline, which a test may give other parts."""
    mine = copy.copy(small_prior.pipe)
    mine.scheduler = copy.deepcopy(mine.scheduler)
    mine.set_progress_bar_config(disable=True)
    return mine


@pytest.fixture(scope="session")
def noise(small_prior: Prior) -> Tensor:
    """Unit noise of two images."""
    return torch.randn(small_prior.latent_shape(2), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def draw(noise: Tensor) -> Callable[..., Tensor]:
    """(pipeline, arguments of its call) -> two images in 4 steps, the same each time."""

    def images(pipe: Any, **call: Any) -> Tensor:
        arguments = {
            "prompt": ["a dog", "a red cat"],
            "num_inference_steps": 4,
            "guidance_scale": 3.0,
            "latents": noise.to(pipe.unet.dtype),
            "generator": torch.Generator().manual_seed(5),
            "output_type": "pt",
        }
        return pipe(**(arguments | call)).images

    return images
