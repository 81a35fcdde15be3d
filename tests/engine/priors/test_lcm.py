"""Latent consistency models: the pipeline of their own, and as a StableDiffusionPipeline with their scheduler."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import LCMScheduler
from torch import Tensor

from engine import Alignment, Classifier, GuidedScheduler
from engine.errors import ConfigError
from engine.guidance.assembly import guidance_of
from engine.guidance.decoder import decoder_of
from engine.priors import Prior, load_prior
from engine.sampling.loop import sample, unmoved
from engine.sampling.noise import ImageNoise
from engine.types import ImageKey

KEYS = (ImageKey(0, 0), ImageKey(1, 0))
PROMPTS = ["a dog", "a red cat"]


@pytest.fixture(params=["own pipeline", "Stable Diffusion"])
def lcm(request: pytest.FixtureRequest, pipe_of: Any) -> Any:
    if request.param == "own pipeline":
        return pipe_of("lcm")
    pipe = pipe_of("sd")
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    return pipe


def noise_of(prior: Prior) -> ImageNoise:
    return ImageNoise(0, KEYS, prior.latent_shape(2)[1:])


def own_loop(prior: Prior, move: Any = unmoved) -> tuple[Tensor, Tensor]:
    noise = noise_of(prior)
    denoise = prior.denoiser(prior.encode(PROMPTS), 1.0)
    z = sample(noise.draw(), denoise, prior.schedule(4), move, eta=1.0, noise=noise)
    return z, prior.decode(z)


def their_images(lcm: Any, prior: Prior) -> Tensor:
    """Images of the pipeline's own call, from the noise of `own_loop`."""
    noise = noise_of(prior)
    more = {} if type(lcm).__name__.startswith("Latent") else {"guidance_scale": 1.0}
    images: Tensor = lcm(
        prompt=PROMPTS,
        latents=noise.draw(),
        generator=noise.generators,
        num_inference_steps=4,
        output_type="pt",
        **more,
    ).images
    return images


@pytest.mark.shows("own loop", family="lcm")
@torch.no_grad()
def test_a_run_with_all_noise_renewed_is_the_pipeline_s_own(lcm: Any) -> None:
    """But for the share of its input that a step of the scheduler adds at low noise, 7e-6."""
    prior = load_prior(lcm)
    z, images = own_loop(prior)
    torch.testing.assert_close(images, their_images(lcm, prior), atol=3e-5, rtol=0)
    assert z.shape == prior.latent_shape(2)


@torch.no_grad()
def test_a_guided_scheduler_makes_what_the_own_loop_makes(lcm: Any, classifier: Classifier) -> None:
    """What the pipeline decodes is the clean latent of the last step, which is not guided: the moves are before it."""
    alignment = Alignment(scale=0.3)
    prior = load_prior(lcm)
    decoder = decoder_of(alignment, prior, classifier.preprocess)
    move = guidance_of(classifier, alignment, decoder, None).move
    _, plain = own_loop(prior)
    _, images = own_loop(prior, move)
    lcm.scheduler = GuidedScheduler(lcm, classifier, alignment)
    theirs = their_images(lcm, prior)
    assert not torch.allclose(images, plain, atol=1e-3)
    torch.testing.assert_close(theirs, images, atol=3e-5, rtol=0)


@pytest.mark.shows("save, load", family="lcm")
@torch.no_grad()
def test_its_folder_keeps_its_scheduler(lcm: Any, tmp_path: Path) -> None:
    lcm.save_pretrained(tmp_path)
    again = load_prior(tmp_path, device="cpu")
    assert type(again.pipe.scheduler).__name__ == "LCMScheduler"
    for one, other in zip(own_loop(again), own_loop(load_prior(lcm)), strict=True):
        assert torch.equal(one, other)


def test_its_guidance_is_distilled(pipe_of: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"which has none .* set cfg to 1; .* argument guidance_scale"
    ):
        load_prior(pipe_of("lcm")).encode(PROMPTS, "")
    assert load_prior(pipe_of("lcm"), call={"guidance_scale": 3.0}).call == {"guidance_scale": 3.0}
