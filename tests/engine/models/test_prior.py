"""Priors compute what diffusers' own pipeline computes, to the bit."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline

from engine.errors import ConfigError
from engine.models import Prior, load_prior
from engine.models.decoder import decode, downscale

PROMPTS = ["a dog", "an elephant"]


def ddim(
    prior: Prior, prompts: list[str], latents: torch.Tensor, cfg: float, steps: int
) -> torch.Tensor:
    """The bare DDIM loop, eta = 0."""
    denoise = prior.denoiser(
        prior.encode_prompts(prompts), prior.encode_prompts([""] * len(prompts)), cfg
    )
    for step in prior.schedule(steps):
        clean, noise = denoise(latents, step)
        latents = step.alpha_next**0.5 * clean + (1 - step.alpha_next) ** 0.5 * noise
    return prior.decode(latents)


def changed(prior: Prior, **config: object) -> Prior:
    """The same prior with another scheduler."""
    parts = {
        name: getattr(prior, name)
        for name in ("name", "fingerprint", "tokenizer", "text_encoder", "unet", "vae")
    }
    return Prior(**parts, scheduler=DDIMScheduler.from_config(prior.scheduler.config, **config))


@pytest.mark.parametrize(("cfg", "steps"), [(1.0, 4), (5.0, 4), (15.0, 7)])
@torch.no_grad()
def test_images_are_those_of_diffusers_to_the_bit(
    tiny_prior_folder: Path, cfg: float, steps: int
) -> None:
    latents = torch.randn(2, 4, 4, 4)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_prior_folder)
    for part in (pipeline.text_encoder, pipeline.unet, pipeline.vae):
        part.requires_grad_(False)  # frozen as a prior: torch chooses how to multiply by it
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        PROMPTS, latents=latents, guidance_scale=cfg, num_inference_steps=steps, output_type="pt"
    ).images
    prior = load_prior(tiny_prior_folder, device="cpu")
    assert torch.equal(ddim(prior, PROMPTS, latents, cfg, steps), expected)


@pytest.mark.parametrize(
    ("config", "steps"),
    [
        ({"timestep_spacing": "leading", "steps_offset": 0}, 10),
        ({"timestep_spacing": "trailing", "steps_offset": 0}, 30),
        (
            {
                "timestep_spacing": "trailing",
                "rescale_betas_zero_snr": True,
                "prediction_type": "v_prediction",
            },
            7,
        ),
        ({"timestep_spacing": "linspace", "set_alpha_to_one": True}, 5),
        ({"prediction_type": "sample"}, 3),
        ({"prediction_type": "epsilon"}, 1),
    ],
    ids=["leading", "trailing", "zero-snr", "linspace", "sample", "one-step"],
)
def test_a_schedule_is_that_of_diffusers_to_the_bit(
    tiny_prior: Prior, config: dict[str, object], steps: int
) -> None:
    prior = changed(tiny_prior, **config)
    theirs = DDIMScheduler.from_config(prior.scheduler.config)
    theirs.set_timesteps(steps)
    schedule = prior.schedule(steps)
    assert [step.timestep for step in schedule] == theirs.timesteps.tolist()
    assert [step.index for step in schedule] == list(range(len(schedule)))
    assert [step.is_last for step in schedule] == [False] * (len(schedule) - 1) + [True]
    z, output = torch.randn(2, 1, 4, 4, 4)
    for step in schedule:
        clean, noise = prior.predict(output, z, step)
        after = step.alpha_next**0.5 * clean + (1 - step.alpha_next) ** 0.5 * noise
        assert torch.equal(after, theirs.step(output, step.timestep, z).prev_sample)


def test_making_a_schedule_leaves_the_prior_as_it_was(tiny_prior: Prior) -> None:
    before = tiny_prior.scheduler.timesteps.clone()
    tiny_prior.schedule(3)
    assert torch.equal(tiny_prior.scheduler.timesteps, before)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_numbers_of_steps_are_refused(tiny_prior: Prior, steps: int) -> None:
    with pytest.raises(
        ConfigError, match=f"{steps} steps, expected 1 to 1000: prior .* Ask for fewer steps"
    ):
        tiny_prior.schedule(steps)


def test_an_offset_past_the_last_noise_level_is_refused(tiny_prior: Prior) -> None:
    with pytest.raises(ConfigError, match="begin at timestep 1000, expected less than 1000"):
        tiny_prior.schedule(1000)


@torch.no_grad()
def test_one_null_prompt_serves_all_latents(tiny_prior: Prior) -> None:
    context, null = tiny_prior.encode_prompts(PROMPTS), tiny_prior.encode_prompts([""])
    z, step = torch.randn(2, 4, 4, 4), tiny_prior.schedule(2)[0]
    one = tiny_prior.denoiser(context, null, 7.5)(z, step)
    each = tiny_prior.denoiser(context, null.repeat(2, 1, 1), 7.5)(z, step)
    assert torch.equal(one.clean, each.clean)


def test_gradients_reach_the_latents_and_the_prompts_but_no_weight(tiny_prior: Prior) -> None:
    context = tiny_prior.encode_prompts(PROMPTS[:1]).detach().requires_grad_()
    z = torch.randn(1, *tiny_prior.latent_shape, requires_grad=True)
    denoise = tiny_prior.denoiser(context, tiny_prior.encode_prompts([""]), 5.0)
    tiny_prior.decode(denoise(z, tiny_prior.schedule(2)[1]).clean).sum().backward()
    assert z.grad is not None
    assert z.grad.abs().sum() > 0
    assert context.grad is not None
    assert context.grad.abs().sum() > 0
    for part in (tiny_prior.unet, tiny_prior.vae, tiny_prior.text_encoder):
        assert not part.training
        assert not any(weight.requires_grad for weight in part.parameters())


def test_shapes_follow_the_configs(tiny_prior: Prior) -> None:
    assert tiny_prior.latent_shape == (4, 4, 4)
    assert tiny_prior.image_px == 32
    assert tiny_prior.encode_prompts(["a dog", "a" * 99, ""]).shape == (3, 16, 32)
    assert tiny_prior.decode(torch.randn(2, 4, 4, 4)).shape == (2, 3, 32, 32)


def test_decoding_without_the_clamp_keeps_the_gradient_of_saturated_pixels(
    tiny_prior: Prior,
) -> None:
    latents = 40 * torch.randn(1, 4, 4, 4)
    tiny_prior.vae.decoder.conv_out.bias.data.add_(9)  # every pixel beyond white
    try:
        for clamp in (True, False):
            leaf = latents.clone().requires_grad_()
            images = tiny_prior.decode(leaf, clamp=clamp)
            images.sum().backward()
            assert bool(images.max() <= 1) is clamp
            assert bool(leaf.grad.any()) is not clamp
    finally:
        tiny_prior.vae.decoder.conv_out.bias.data.sub_(9)


@torch.no_grad()
def test_the_tiny_autoencoder_decodes_like_its_own_pipeline() -> None:
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        latent_channels=4,
    ).eval()
    latents = torch.randn(1, 4, 8, 8)
    images = decode(vae, latents)
    assert images.shape == (1, 3, 8 * downscale(vae), 8 * downscale(vae)) == (1, 3, 32, 32)
    assert torch.equal(images, (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1))
