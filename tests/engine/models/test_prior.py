"""Priors compute what diffusers' own pipeline computes, to the bit."""

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from engine.errors import ConfigError
from engine.models import Prior, load_prior

PROMPTS = ["a dog", "an elephant"]


def ddim(prior: Prior, prompts: list[str], latents: torch.Tensor, cfg: float, steps: int) -> torch.Tensor:
    """The bare DDIM loop, eta = 0."""
    denoise = prior.denoiser(prior.encode_prompts(prompts), prior.encode_prompts([""] * len(prompts)), cfg)
    for step in prior.schedule(steps):
        clean, noise = denoise(latents, step)
        latents = step.alpha_next**0.5 * clean + (1 - step.alpha_next) ** 0.5 * noise
    return prior.decode(latents)


@pytest.mark.parametrize(("cfg", "steps"), [(1.0, 4), (5.0, 4), (15.0, 7)])
@torch.no_grad()
def test_images_are_those_of_diffusers_to_the_bit(tiny_prior_folder: Path, cfg: float, steps: int) -> None:
    latents = torch.randn(2, 4, 4, 4)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_prior_folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    expected = pipeline(
        PROMPTS, latents=latents, guidance_scale=cfg, num_inference_steps=steps, output_type="pt"
    ).images
    prior = load_prior(tiny_prior_folder, device="cpu")
    assert torch.equal(ddim(prior, PROMPTS, latents, cfg, steps), expected)
