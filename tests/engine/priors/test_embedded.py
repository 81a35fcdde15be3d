"""The embedded prior and Stable Diffusion 1 and 2 keep their bits through the pipeline."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline
from torch import Tensor

from engine.priors import Prior, load_prior
from engine.priors import hollow as hollow_module
from engine.priors.vae import downscale
from engine.sampling.step import next_latents

PROMPTS = ["a dog", "an elephant", "a guitar", "a dog"]


@pytest.fixture(scope="module")
def embedded() -> Prior:
    return load_prior("embedded", device="cpu")


@pytest.mark.parametrize("steps", [1, 30, 333])
def test_a_schedule_has_the_numbers_of_its_alphas(embedded: Prior, steps: int) -> None:
    """Signal and noise as float32, as DDIM has them; what is uncertain of the clean latent exactly."""
    scheduler = embedded.pipe.scheduler
    alphas, stride = scheduler.alphas_cumprod, scheduler.config.num_train_timesteps // steps
    schedule = embedded.schedule(steps)
    assert len(schedule) == steps
    for number, step in enumerate(schedule):
        before = int(step.timestep) - stride
        alpha = alphas[int(step.timestep)]
        after = alphas[before] if before >= 0 else scheduler.final_alpha_cumprod
        assert (step.index, step.total) == (number, steps)
        assert (step.signal, step.noise) == (alpha**0.5, (1 - alpha) ** 0.5)
        assert (step.signal_next, step.noise_next) == (after**0.5, (1 - after) ** 0.5)
        assert step.uncertainty == pytest.approx(((1 - float(alpha)) / float(alpha)) ** 0.5)


@pytest.mark.parametrize(("cfg", "steps"), [(1.0, 4), (15.0, 7)])
@torch.no_grad()
def test_images_are_those_of_diffusers_to_the_bit(
    tiny_prior_folder: Path, cfg: float, steps: int
) -> None:
    prior = load_prior(tiny_prior_folder, device="cpu")
    context = prior.encode(PROMPTS[:2], "")
    conditional, null = (entry.value for entry in context.calls[0])
    noise = torch.randn(2, 4, 4, 4)
    pipe = StableDiffusionPipeline.from_pretrained(tiny_prior_folder)
    for part in (pipe.unet, pipe.vae):
        part.requires_grad_(False)  # frozen as a prior: torch chooses how to multiply by it
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        prompt_embeds=conditional,
        negative_prompt_embeds=null.contiguous(),
        latents=noise,
        guidance_scale=cfg,
        num_inference_steps=steps,
        output_type="pt",
    ).images
    denoise, z = prior.denoiser(context, cfg), noise
    for step in prior.schedule(steps):
        z = next_latents(denoise(z, step), step)
    assert torch.equal(prior.decode(z), expected)


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
def test_steps_are_those_of_ddim_to_the_bit(
    embedded: Prior, config: dict[str, object], steps: int
) -> None:
    scheduler = DDIMScheduler.from_config(embedded.pipe.scheduler.config, **config)
    output, z = torch.randn(2, 1, 4, 8, 8)
    prior = embedded.replaced(scheduler=scheduler, unet=_Constant(embedded.network, output))
    scheduler = DDIMScheduler.from_config(scheduler.config)
    scheduler.set_timesteps(steps)
    schedule = prior.schedule(steps)
    assert [int(step.timestep) for step in schedule] == scheduler.timesteps.tolist()
    assert [step.index for step in schedule] == list(range(len(schedule)))
    assert [step.is_last for step in schedule] == [False] * (len(schedule) - 1) + [True]
    denoise = prior.denoiser(embedded.encode(["a dog"]), 1.0)
    for step in schedule:
        fresh = torch.randn(1, 4, 8, 8)
        prediction = denoise(z, step)
        for eta in (0.0, 1.0) if step.signal else (0.0,):  # from signal 0 DDIM's own gives NaN
            noise = type("", (), {"draw": lambda self, fresh=fresh: fresh})()
            told = scheduler.step(output, int(step.timestep), z, eta, variance_noise=fresh)
            after = next_latents(prediction, step, eta, noise)
            assert torch.equal(after, told.prev_sample)


class _Constant(torch.nn.Module):
    """A network that gives one output whatever it sees."""

    def __init__(self, network: torch.nn.Module, output: Tensor) -> None:
        super().__init__()
        self.config, self.dtype, self.device = network.config, network.dtype, network.device
        self.output = output

    def forward(self, *_: object, **__: object) -> tuple[Tensor]:
        return (self.output,)


@torch.no_grad()
def test_nothing_is_copied_to_the_device_in_a_step(
    embedded: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    """'meta' plays a device: what has values may not be brought there, nor read from there."""
    monkeypatch.setattr(hollow_module, "is_hollow", lambda _: False)
    hollow = load_prior(embedded.pipe, device="meta")
    context = hollow.encode(PROMPTS, "")
    z, schedule = hollow.noise([torch.Generator()] * 4, 3), hollow.schedule(3)
    denoise = hollow.denoiser(context, 4.0)
    hollow.decode(denoise(z, schedule[0]).clean)  # what is made once
    with _NoCopies():
        latents = hollow.vae_latents(next_latents(denoise(z, schedule[1]), schedule[1]))
    assert latents.is_meta
    assert latents.shape == hollow.latent_shape(4)


class _NoCopies(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.tensor, torch.as_tensor, torch.from_numpy, Tensor.item, Tensor.cpu):
            raise AssertionError(f"{func} is called in a step")
        out = func(*args, **(kwargs or {}))
        if func is Tensor.to and out.device != args[0].device:
            raise AssertionError(f"{args[0].device} is copied to {out.device} in a step")
        return out


def test_latents_stay_float32_between_networks_in_half_precision(embedded: Prior) -> None:
    prior = load_prior("embedded", device="cpu", dtype=torch.bfloat16)
    assert prior.fingerprint == embedded.fingerprint
    z = torch.randn(2, *prior.latent_shape(1)[1:])
    with torch.no_grad():
        found, exact = (
            one.denoiser(one.encode(PROMPTS[:2], ""), 4.0)(z, one.schedule(4)[1])
            for one in (prior, embedded)
        )
    assert found.clean.dtype == prior.decode(z).dtype == torch.float32
    torch.testing.assert_close(found.clean, exact.clean, atol=0.1, rtol=0.1)
    assert not torch.equal(found.clean, found.clean.to(torch.bfloat16).float())


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
def test_a_tiny_autoencoder_may_be_the_vae_and_decodes_like_its_own_pipeline(
    tiny_prior: Prior,
) -> None:
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        latent_channels=4,
    ).eval()
    latents = torch.randn(1, 4, 8, 8)
    images = tiny_prior.replaced(vae=vae).decode(latents)
    assert images.shape == (1, 3, 8 * downscale(vae), 8 * downscale(vae)) == (1, 3, 32, 32)
    assert torch.equal(images, (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1))
