"""A guided scheduler samples what the engine samples, and is its pipeline's own in all else."""

import copy
import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
)
from torch import Tensor, nn

from engine import Alignment, Classifier, GuidedScheduler, Prior, load_classifier, load_prior
from engine.classifiers import Preprocess
from engine.errors import ConfigError, GuidanceError, ModelError
from engine.guidance.assembly import guidance_of
from engine.guidance.decoder import decoder_of
from engine.guidance.domain import Domain
from engine.sampling.loop import sample

Draw = Callable[..., Tensor]
GUIDED = Alignment(scale=0.3)
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULERS = {
    "ddim": (DDIMScheduler(**NOISE, clip_sample=False, steps_offset=1), {}),
    "ddim, eta 1": (DDIMScheduler(**NOISE, clip_sample=False, steps_offset=1), {"eta": 1.0}),
    "euler": (EulerDiscreteScheduler(**NOISE, timestep_spacing="leading"), {}),
    "ancestral": (EulerAncestralDiscreteScheduler(**NOISE), {}),
    "dpm++": (DPMSolverMultistepScheduler(**NOISE), {}),
    "sde-dpm++": (DPMSolverMultistepScheduler(**NOISE, algorithm_type="sde-dpmsolver++"), {}),
}
"""Schedulers, and arguments of the call that belong to them."""


def wrapped(pipe: Any, classifier: Any, alignment: Alignment = GUIDED, **more: Any) -> Any:
    """The pipeline with a guided scheduler."""
    mine = copy.copy(pipe)
    mine.scheduler = GuidedScheduler(mine, classifier, alignment, **more)
    return mine


def spied(scheduler: Any, see: Callable[[Tensor, Tensor], None]) -> None:
    """Let `see` have what a scheduler's step is handed: the network's output and the latents."""
    step = scheduler.step

    @wraps(step)
    def seen(output: Tensor, timestep: Any, sample: Tensor, **more: Any) -> Any:
        see(output, sample)
        return step(output, timestep, sample, **more)

    scheduler.step = seen


def distance(classifier: Classifier, images: Tensor) -> float:
    """L_BN of all images together, which guidance descends."""
    domain = Domain.of(classifier.network, classifier.statistics, "relative", "l2_squared")
    with torch.no_grad(), domain.watched() as l_bn:
        classifier.logits(images)
        return l_bn().item()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_kind_of_scheduler_is_guided_and_left_alone_at_scale_0(
    name: str, pipe: Any, classifier: Classifier, draw: Draw
) -> None:
    scheduler, call = SCHEDULERS[name]
    pipe.scheduler = copy.deepcopy(scheduler)
    plain = draw(pipe, **call)
    assert torch.equal(draw(wrapped(pipe, classifier, Alignment(scale=0)), **call), plain)
    guided = wrapped(pipe, classifier)
    images = draw(guided, **call)
    assert distance(classifier, images) < 0.8 * distance(classifier, plain)
    assert torch.equal(draw(guided, **call), images)  # nothing is left over from a run


@pytest.mark.parametrize("name", ["ddim", "euler"])
@pytest.mark.parametrize("statistics", ["batch", "image"])
def test_images_are_those_of_the_own_loop(
    name: str, statistics: str, pipe: Any, classifier: Classifier, draw: Draw, noise: Tensor
) -> None:
    pipe.scheduler = copy.deepcopy(SCHEDULERS[name][0])
    alignment = Alignment(scale=0.3, statistics=statistics, moves=2)
    prior = load_prior(pipe)
    classes = torch.tensor([0, 3])
    with torch.no_grad():
        context = prior.encode(["a dog", "a red cat"], "")
        decoder = decoder_of(alignment, prior, classifier.preprocess)
        guidance = guidance_of(classifier, alignment, decoder, classes)
        schedule = prior.schedule(4)
        pipe.scheduler.set_timesteps(4)
        unit = schedule[0].signal if name == "euler" else 1.0  # Euler's latents are z / signal
        start = noise * pipe.scheduler.init_noise_sigma * unit
        z = sample(start, prior.denoiser(context, 3.0), schedule, guidance.move)
        own = prior.decode(z)
    guided = wrapped(pipe, classifier, alignment, classes=[0, classifier.labels[3]])
    torch.testing.assert_close(draw(guided), own, atol=1e-5, rtol=0)


def test_it_is_its_pipeline_s_scheduler_in_all_else(
    pipe: Any, classifier: Classifier, tmp_path: Path
) -> None:
    inner = pipe.scheduler
    config = dict(pipe.config)
    pipe.scheduler = guided = GuidedScheduler(pipe, classifier)
    assert guided.inner is inner
    assert isinstance(guided, DDIMScheduler)
    assert isinstance(guided, GuidedScheduler)
    assert guided.config is inner.config
    assert (guided.order, guided.init_noise_sigma, len(guided)) == (1, 1.0, 1000)
    assert set(inspect.signature(guided.step).parameters) >= {"eta", "generator", "return_dict"}
    guided.set_timesteps(7)
    assert guided.timesteps is inner.timesteps
    guided.num_inference_steps = 5
    assert inner.num_inference_steps == 5
    with pytest.raises(AttributeError, match=r"has no attribute 'sigma_data'"):
        _ = guided.sigma_data
    assert "DDIMScheduler" in repr(guided)
    assert dict(pipe.config) == config
    again = EulerDiscreteScheduler.from_config(guided.config)
    assert again.config.beta_start == inner.config.beta_start
    for twin in (copy.copy(guided), copy.deepcopy(guided)):
        assert isinstance(twin, GuidedScheduler)
        assert twin.inner is not inner
        assert twin.guide is guided.guide
        assert twin.timesteps is not None
    pipe.save_pretrained(tmp_path)
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path, safety_checker=None)
    assert type(loaded.scheduler) is DDIMScheduler
    assert dict(loaded.scheduler.config).keys() == dict(inner.config).keys()


def test_a_copy_of_a_guided_scheduler_guides_alike(
    pipe: Any, classifier: Classifier, draw: Draw
) -> None:
    images = draw(wrapped(pipe, classifier))
    guided = wrapped(pipe, classifier)
    guided.scheduler = copy.deepcopy(guided.scheduler)
    assert torch.equal(draw(guided), images)


def test_a_scheduler_is_guided_once_and_can_be_had_back(
    pipe: Any, classifier: Classifier, draw: Draw
) -> None:
    plain, once = draw(pipe), draw(wrapped(pipe, classifier))
    twice = wrapped(wrapped(pipe, classifier, Alignment(scale=0.8)), classifier)
    assert torch.equal(draw(twice), once)
    twice.scheduler = twice.scheduler.inner
    assert torch.equal(draw(twice), plain)


def test_latents_of_half_precision_are_float32_from_step_to_step(
    pipe: Any, classifier: Classifier, draw: Draw
) -> None:
    exact = draw(wrapped(pipe, classifier))
    for part in ("unet", "vae", "text_encoder"):
        pipe.__dict__[part] = copy.deepcopy(getattr(pipe, part)).to(torch.bfloat16)
    latents: list[Tensor] = []
    guided = wrapped(pipe, classifier)
    spied(guided.scheduler.inner, lambda output, z: latents.extend((output, z)))
    given = []

    def watch(_pipe: Any, _index: int, _timestep: Any, tensors: dict[str, Tensor]) -> dict:
        given.append(tensors["latents"])
        return tensors

    images = draw(guided, callback_on_step_end=watch)
    assert {z.dtype for z in latents} == {torch.float32}
    assert all(z.dtype == torch.bfloat16 for z in given)
    for after, before in zip(given[:-1], latents[3::2], strict=True):
        assert torch.equal(before.bfloat16(), after)
        assert not torch.equal(before, after.float())
    torch.testing.assert_close(images.float(), exact, atol=0.5, rtol=0)
    replaced = []
    spied(guided.scheduler.inner, lambda _, z: replaced.append(z))

    def zero(_pipe: Any, _index: int, _timestep: Any, tensors: dict[str, Tensor]) -> dict:
        return tensors | {"latents": torch.zeros_like(tensors["latents"])}

    draw(guided, callback_on_step_end=zero)
    assert all(not z.any() for z in replaced[1:])  # what a user puts there counts


def test_nothing_of_a_run_is_kept_behind_it(pipe: Any, classifier: Classifier, draw: Draw) -> None:
    guided = wrapped(pipe, classifier)
    draw(guided)
    held = {name: guided.scheduler.__dict__[name] for name in ("_run", "_given", "_exact")}
    assert held == {"_run": None, "_given": None, "_exact": None}


def test_inference_mode_changes_nothing(pipe: Any, classifier: Classifier, draw: Draw) -> None:
    images = draw(wrapped(pipe, classifier))
    with torch.inference_mode():
        found = draw(wrapped(pipe, classifier))
    assert torch.equal(found, images)


def test_images_of_any_size_are_guided(pipe: Any, classifier: Classifier, draw: Draw) -> None:
    guided = wrapped(pipe, classifier)
    for height, width in ((32, 64), (64, 32), (32, 32)):
        call = {"latents": None, "height": height, "width": width}
        plain, images = draw(pipe, **call), draw(guided, **call)
        assert images.shape == (2, 3, height, width)
        assert distance(classifier, images) < distance(classifier, plain)


def test_a_tiny_decoder_is_looked_through_and_another_vae_as_well(
    pipe: Any, classifier: Classifier, draw: Draw
) -> None:
    torch.manual_seed(4)
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    )
    full, small = draw(wrapped(pipe, classifier)), draw(wrapped(pipe, classifier, tiny=tiny))
    assert not torch.allclose(small, full, atol=1e-3)
    assert all(weight.requires_grad for weight in tiny.parameters())
    guided = wrapped(pipe, classifier)
    draw(guided)
    guided.vae = tiny
    pipe.vae = tiny
    assert torch.equal(draw(guided), draw(wrapped(pipe, classifier)))


def small_tiny(levels: int = 4, **config: Any) -> AutoencoderTiny:
    widths = {f"{part}_block_out_channels": (4,) * levels for part in ("encoder", "decoder")}
    blocks = {f"num_{part}_blocks": (1,) * levels for part in ("encoder", "decoder")}
    return AutoencoderTiny(**widths, **blocks, **config)


def test_a_tiny_decoder_that_does_not_fit_is_refused_when_it_is_wrapped(
    pipe: Any, classifier: Classifier, tmp_path: Path
) -> None:
    named = tmp_path / "models--madebyollin--taesdxl" / "snapshots" / "0123"
    small_tiny().save_pretrained(named)
    for tiny, message in (
        (small_tiny(levels=3), "AutoencoderTiny' makes 4 px of a latent's side and .* 8, expected"),
        (small_tiny(latent_channels=16), "reads latents of 16 channels and prior .* has 4, expec"),
        (nn.Linear(2, 2), "the tiny decoder for .* is a Linear, expected an AutoencoderTiny: load"),
        ("quatsch", "unknown tiny decoder 'quatsch', expected"),
        (named, "taesdxl.* reads the latents of another VAE than .*, expected 'madebyollin/taesd'"),
        (AutoencoderTiny.from_pretrained(named), "reads the latents of another VAE"),
    ):
        with pytest.raises(ModelError, match=message):
            GuidedScheduler(pipe, classifier, tiny=tiny)
    GuidedScheduler(pipe, classifier, tiny=small_tiny())


def test_a_call_without_a_guided_step_is_refused(
    pipe: Any, classifier: Classifier, draw: Draw
) -> None:
    """Its images would be those of no guidance."""
    with pytest.raises(
        ConfigError, match=r"none of the pipeline's 1 step\(s\) is guided, expected"
    ):
        draw(wrapped(pipe, classifier), num_inference_steps=1)
    draw(wrapped(pipe, classifier), num_inference_steps=2)


def test_fewer_images_at_once_give_the_same(pipe: Any, classifier: Classifier, draw: Draw) -> None:
    whole = draw(wrapped(pipe, classifier))
    parts = draw(wrapped(pipe, classifier, at_once=1, checkpoint=True))
    torch.testing.assert_close(parts, whole, atol=1e-4, rtol=0)


def test_the_user_s_vae_is_left_as_it_is(pipe: Any, classifier: Classifier, draw: Draw) -> None:
    pipe.vae = copy.deepcopy(pipe.vae).train().requires_grad_(True)
    before = copy.deepcopy(pipe.vae.state_dict())
    draw(wrapped(pipe, classifier))
    assert pipe.vae.training
    for name, weight in pipe.vae.named_parameters():
        assert weight.requires_grad
        assert weight.grad is None
        assert torch.equal(weight, before[name])


def test_gradients_that_are_not_finite_end_the_run(
    pipe: Any, classifier: Classifier, draw: Draw
) -> None:
    pipe.vae = copy.deepcopy(pipe.vae)
    pipe.vae.decoder.conv_in.weight.data.fill_(float("nan"))
    with pytest.raises(GuidanceError, match=r"6 of 6 guidance moves"):
        draw(wrapped(pipe, classifier), output_type="latent")


def test_what_cannot_be_guided_is_refused_with_what_to_do(
    pipe: Any, classifier: Classifier, small_prior: Prior
) -> None:
    def refused(message: str, error: type = ModelError, on: Any = pipe, **how: Any) -> None:
        with pytest.raises(error, match=message):
            GuidedScheduler(on, **{"classifier": classifier, **how})

    other = copy.copy(pipe)
    other.scheduler = DDPMScheduler()
    refused("scheduler is a DDPMScheduler, expected one of DDIMScheduler, .*: replace it", on=other)
    other = copy.copy(pipe)
    other.__dict__["vae"] = None
    refused("a StableDiffusionPipeline without vae, expected .*: choose such a model", on=other)
    other = copy.copy(pipe)
    other.__dict__["text_encoder"] = None
    refused("Pipeline without text_encoder, expected the .* Load the pipeline with", on=other)
    other.__dict__.update(text_encoder=pipe.text_encoder, tokenizer=None)
    refused("Pipeline without tokenizer, expected the text encoders", on=other)
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    reads = Preprocess.squash(16)
    without = load_classifier(plain, labels=("a", "b"), preprocess=reads, device="cpu")
    refused("has no BatchNorm layers, expected at least one.*: ", classifier=without)
    by_class = Alignment(domain_weight=0.0)
    refused(
        "domain_weight is 0 and there are no `classes`, expected one of them: .* Name the",
        ConfigError,
        classifier=without,
        alignment=by_class,
    )
    GuidedScheduler(pipe, without, by_class, classes=["b"])
    refused(
        "target is 'noisy' .*, expected 'clean': .*guiding_callback",
        ConfigError,
        alignment=Alignment.paper(),
    )
    refused(
        "classes has 'wolf', expected names or numbers of the 7 classes",
        ConfigError,
        classes=["wolf"],
    )
    for number in (7, -1, True, 1.0):
        refused(f"classes has {number}, expected names or numbers", ConfigError, classes=[number])
    assert small_prior.pipe.scheduler is not pipe.scheduler


def test_a_call_that_does_not_fit_is_refused(pipe: Any, classifier: Classifier, draw: Draw) -> None:
    guided = wrapped(pipe, classifier, classes=[0, 1, 2])
    with pytest.raises(ConfigError, match=r"classes has 3 entries and the pipeline makes 2 images"):
        draw(guided)
    pipe.scheduler = copy.deepcopy(SCHEDULERS["euler"][0])
    guided = wrapped(pipe, classifier)
    guided.scheduler.set_timesteps(4)
    z = torch.zeros(1, 4, 4, 4)
    with pytest.raises(
        ConfigError, match=r"s_churn is 0.5 and the scheduler is guided, expected 0"
    ):
        guided.scheduler.step(z, guided.scheduler.timesteps[0], z, s_churn=0.5)
    with pytest.raises(ConfigError, match=r"s_churn is 0.5 and the scheduler is guided"):
        guided.scheduler.step(z, guided.scheduler.timesteps[0], z, 0.5)
