"""The embedded prior and Stable Diffusion 1 and 2 keep their bits through the pipeline."""

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor

from engine.models import Prior as FormerPrior
from engine.models import load_prior as load_former
from engine.priors import Prior, load_prior
from engine.sampling.ddim import ddim_step
from engine.sampling.noise import ImageNoise
from engine.sampling.step import next_latents
from engine.types import ImageKey

PROMPTS = ["a dog", "an elephant", "a guitar", "a dog"]


@pytest.fixture(scope="module")
def former() -> FormerPrior:
    return load_former("embedded", device="cpu")


@pytest.fixture(scope="module")
def embedded() -> Prior:
    return load_prior("embedded", device="cpu")


def test_it_is_the_same_prior(former: FormerPrior, embedded: Prior) -> None:
    assert embedded.fingerprint == former.fingerprint
    assert embedded.describe() == former.describe()
    assert tuple(embedded.latent_shape(3)) == (3, *former.latent_shape)
    assert embedded.image_size == (former.image_px,) * 2


@pytest.mark.parametrize("images", [1, 8])
@pytest.mark.parametrize(("cfg", "eta"), [(1.0, 0.0), (4.0, 1.0), (4.0, 0.3), (15.0, 0.0)])
@torch.no_grad()
def test_a_run_has_the_bits_of_the_former_one(
    former: FormerPrior, embedded: Prior, images: int, cfg: float, eta: float
) -> None:
    """Prompts encoded once each, the null prompt alone, as a group of images does it."""
    prompts = [PROMPTS[number % len(PROMPTS)] for number in range(images)]
    different = list(dict.fromkeys(prompts))
    rows = [different.index(prompt) for prompt in prompts]
    expected, null = former.encode_prompts(different)[rows], former.encode_prompts([""])
    context = embedded.encode(different, "")[rows]
    assert torch.equal(context.calls[0][0].value, expected)
    assert torch.equal(context.calls[0][1].value, null.expand_as(expected))
    keys = [ImageKey(0, number) for number in range(images)]
    noise, again = (ImageNoise(5, keys, former.latent_shape) for _ in range(2))
    z, own = noise.draw(), embedded.noise(again.generators, 3)
    assert torch.equal(own, z)
    theirs, ours = former.denoiser(expected, null, cfg), embedded.denoiser(context, cfg)
    for step, mine in zip(former.schedule(3), embedded.schedule(3), strict=True):
        told, found = theirs(z, step), ours(own, mine)
        assert torch.equal(found.clean, told.clean)
        assert torch.equal(found.noise, told.noise)
        z, own = ddim_step(told, step, eta, noise), next_latents(found, mine, eta, again)
        assert torch.equal(own, z)
    for clamp in (True, False):
        assert torch.equal(embedded.decode(own, clamp), former.decode(z, clamp))


@pytest.mark.parametrize("steps", [1, 30, 333])
def test_a_schedule_has_the_numbers_of_the_former_one(
    former: FormerPrior, embedded: Prior, steps: int
) -> None:
    schedule = embedded.schedule(steps)
    for told, step in zip(former.schedule(steps), schedule, strict=True):
        alpha, after = told.alpha, told.alpha_next
        assert (step.index, step.total) == (told.index, told.total)
        assert int(step.timestep) == told.timestep
        assert (step.signal, step.noise) == (alpha**0.5, (1 - alpha) ** 0.5)
        assert (step.signal_next, step.noise_next) == (after**0.5, (1 - after) ** 0.5)
        length = 0.4 * ((1 - float(alpha)) ** 0.5 / float(alpha) ** 0.5)
        assert torch.tensor(0.4 * step.uncertainty) == torch.tensor(length)


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
def test_nothing_is_copied_to_the_device_in_a_step(embedded: Prior) -> None:
    """'meta' plays a device: what has values may not be brought there, nor read from there."""
    hollow = load_prior(embedded.pipe, device="meta")
    context = hollow.encode(PROMPTS, "")
    z, schedule = hollow.noise([torch.Generator()] * 4, 3), hollow.schedule(3)
    denoise = hollow.denoiser(context, 4.0)
    hollow.decode(denoise(z, schedule[0]).clean)  # what is made once
    with _NoCopies():
        hollow.vae_latents(next_latents(denoise(z, schedule[1]), schedule[1]))


class _NoCopies(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.tensor, torch.as_tensor, torch.from_numpy, Tensor.item, Tensor.cpu):
            raise AssertionError(f"{func} is called in a step")
        out = func(*args, **(kwargs or {}))
        if func is Tensor.to and out.device != args[0].device:
            raise AssertionError(f"{args[0].device} is copied to {out.device} in a step")
        return out


def test_half_precision_has_the_bits_of_the_former_prior() -> None:
    former = load_former("embedded", device="cpu", dtype=torch.bfloat16)
    prior = load_prior("embedded", device="cpu", dtype=torch.bfloat16)
    assert prior.fingerprint == former.fingerprint
    z = torch.randn(2, *former.latent_shape)
    with torch.no_grad():
        context, null = former.encode_prompts(PROMPTS[:2]), former.encode_prompts([""])
        told = former.denoiser(context, null, 4.0)(z, former.schedule(4)[1])
        denoise = prior.denoiser(prior.encode(PROMPTS[:2], ""), 4.0)
        found = denoise(z, prior.schedule(4)[1])
        assert torch.equal(found.clean, told.clean)
        assert torch.equal(found.noise, told.noise)
        assert torch.equal(prior.decode(z), former.decode(z))
