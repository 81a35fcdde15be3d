"""Each family of priors computes what its own pipeline computes, and leaves the pipeline alone."""

import functools
import inspect
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from engine.errors import ConfigError
from engine.memory.count import counting
from engine.networks.frozen import safe_dtype
from engine.priors import Prior, load_prior
from engine.priors.steps import levels
from engine.sampling.step import next_latents
from tests.engine.priors.conftest import State

PROMPTS = ["a dog", "a red cat"]
STEPS = 4


def generators(images: int = 2) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in range(images)]


def own_loop(
    prior: Prior, negative: str, cfg: float, noise: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Final latents and images."""
    denoise = prior.denoiser(prior.encode(PROMPTS, negative), cfg)
    z = prior.noise(generators(), STEPS) if noise is None else noise
    for step in prior.schedule(STEPS):
        z = next_latents(denoise(z, step), step)
    return z, prior.decode(z)


def pipelines_loop(
    family: Any, pipe: Any, call: dict[str, Any], negative: str, cfg: float
) -> tuple[Tensor, Tensor, Tensor]:
    """First and final latents, and images, of the pipeline itself."""
    seen = []
    more = {family.cfg: cfg - family.less}
    if negative or family.cfg == "true_cfg_scale":
        more["negative_prompt"] = [negative] * len(PROMPTS)
    own = pipe.scheduler.step

    @functools.wraps(own)
    def watched(output: Tensor, timestep: Tensor, z: Tensor, *args: Any, **kwargs: Any) -> Any:
        stepped = own(output, timestep, z, *args, **kwargs)
        seen.extend([z, stepped[0]])
        return stepped

    with patch.object(pipe.scheduler, "step", watched):
        images = pipe(
            prompt=list(PROMPTS),
            num_inference_steps=STEPS,
            generator=generators(),
            output_type="pt",
            **call,
            **more,
        ).images
    return seen[0], seen[-1], images


@pytest.mark.shows("own loop")
@pytest.mark.parametrize(("negative", "cfg"), [("", 1.0), ("", 5.0), ("an ugly one", 5.0)])
@torch.no_grad()
def test_an_unguided_run_is_the_pipeline_s_own(
    family: Any, pipe: Any, prior: Prior, negative: str, cfg: float
) -> None:
    if negative and "negative_prompt" not in inspect.signature(pipe.__call__).parameters:
        with pytest.raises(ConfigError, match=r"'an ugly one' and a .* takes none, expected ''"):
            own_loop(prior, negative, cfg)
        return
    first, latents, images = pipelines_loop(family, pipe, prior.call, negative, cfg)
    start = levels(pipe.scheduler).start / getattr(pipe.scheduler, "init_noise_sigma", 1.0)
    noise = prior.noise(generators(), STEPS)
    if first.dim() == 3:  # packed: the same numbers, in patches
        assert torch.equal(noise.flatten(1).sort().values, first.flatten(1).sort().values)
        noise = first
    torch.testing.assert_close(noise, first * start, atol=1e-6, rtol=0)
    z, own = own_loop(prior, negative, cfg, noise)
    # Latents reach 17 where the largest error is 1.3e-5, on a processor with AVX-512.
    torch.testing.assert_close(z, latents, atol=2e-6 * latents.abs().max().item(), rtol=0)
    torch.testing.assert_close(own, images, atol=family.image_error, rtol=0)
    torch.testing.assert_close(prior.decode(latents), images, atol=1e-6, rtol=0)
    assert own.shape == (2, 3, *prior.image_size)


@pytest.mark.shows("left alone")
@torch.no_grad()
def test_the_pipeline_is_left_as_it_was(family: Any, new_pipe: Any) -> None:
    """Weights are shared with the prior, and neither they nor anything around them changes."""
    next(part for part in new_pipe.components.values() if isinstance(part, nn.Module)).train()
    state = State(new_pipe)
    prior = load_prior(new_pipe, call=family.call, dtype=torch.bfloat16)
    own_loop(prior, "", 3.0)
    assert prior.dtype == torch.bfloat16
    state.check()
    assert all(all(facts[2]) for facts in map(state.facts.get, state.networks))
    shared = load_prior(new_pipe, call=family.call).components()
    for component in shared:
        own = state.networks[component.name].parameters()
        for theirs, ours in zip(own, component.module.parameters(), strict=True):
            assert theirs is not ours
            assert theirs.data_ptr() == ours.data_ptr()


def test_gradients_reach_the_prompts_and_the_latents_but_no_weight(prior: Prior) -> None:
    with torch.no_grad():
        context = prior.encode(PROMPTS, "")
    rows = context.packed().requires_grad_()
    z = prior.noise(generators(), STEPS).requires_grad_()
    denoise = prior.denoiser(context.with_packed(rows), 5.0)
    loss = prior.decode(denoise(z, prior.schedule(STEPS)[1]).clean, clamp=False).square().mean()
    by_rows, by_z = torch.autograd.grad(loss, [rows, z])
    assert by_rows.isfinite().all()
    assert by_rows.abs().sum((1,)).gt(0).all()
    assert by_z.abs().flatten(1).sum(1).gt(0).all()
    for component in prior.components():
        assert not component.module.training
        assert not any(weight.requires_grad for weight in component.module.parameters())


def test_a_gradient_is_that_of_finite_differences(prior: Prior) -> None:
    with torch.no_grad():
        context = prior.encode(PROMPTS[:1], "")
        z = prior.noise(generators(1), STEPS)
    rows, step = context.packed().requires_grad_(), prior.schedule(STEPS)[2]

    def loss(at: Tensor) -> Tensor:
        clean = prior.denoiser(context.with_packed(at), 3.0)(z, step).clean
        return clean.double().square().sum()

    (grad,) = torch.autograd.grad(loss(rows), rows)
    along = grad / grad.norm()
    with torch.no_grad():
        slope = (loss(rows + 5e-4 * along) - loss(rows - 5e-4 * along)) / 1e-3
    torch.testing.assert_close(slope.float(), grad.norm(), rtol=0.02, atol=0)


@pytest.mark.shows("save, load")
@torch.no_grad()
def test_a_saved_prior_is_loaded_to_the_bit(
    family: Any, pipe: Any, prior: Prior, tmp_path: Any
) -> None:
    pipe.save_pretrained(tmp_path)
    again = load_prior(tmp_path, device="cpu", call=family.call)
    assert again.fingerprint == prior.fingerprint
    # The object's own, as the folder's is, frozen: torch then chooses the same kernels.
    for one, other in zip(own_loop(prior, "", 3.0), own_loop(again, "", 3.0), strict=True):
        assert torch.equal(one, other)


@torch.no_grad()
def test_an_image_depends_on_its_own_row_of_context(prior: Prior) -> None:
    """Contexts go by image: parts, other orders, several encodings."""
    context = prior.encode(PROMPTS, "")
    z, step = prior.noise(generators(), STEPS), prior.schedule(STEPS)[1]
    whole = prior.denoiser(context, 4.0)(z, step).clean
    joined = type(context).join([prior.encode([prompt], "") for prompt in PROMPTS])
    for other in (context[[1, 0]][torch.tensor([1, 0])], joined, context.to(torch.device("cpu"))):
        again = prior.denoiser(other, 4.0)(z, step).clean
        torch.testing.assert_close(again, whole, atol=1e-5, rtol=1e-5)
    for row in range(2):
        alone = prior.denoiser(context[row : row + 1], 4.0)(z[row : row + 1], step).clean
        torch.testing.assert_close(alone, whole[row : row + 1], atol=1e-5, rtol=1e-5)
    assert len(context) == 2
    assert not torch.allclose(whole[0], prior.denoiser(context[[1, 0]], 4.0)(z, step).clean[0])


@torch.no_grad()
def test_the_branches_of_cfg_can_be_computed_apart(family: Any, prior: Prior) -> None:
    takes_negative = "negative_prompt" in inspect.signature(prior.pipe.__call__).parameters
    context = prior.encode(PROMPTS, "blurred" if takes_negative else "")
    z, step = prior.noise(generators(), STEPS), prior.schedule(STEPS)[2]
    both = prior.denoiser(context, 3.0)(z, step).clean
    prompts, null = (
        prior.denoiser(branch, 1.0)(z, step).clean for branch in (context, context.null())
    )
    apart = null + 3.0 * (prompts - null)
    assert torch.allclose(apart, both, atol=1e-4, rtol=1e-4) == prior.cfg_is_affine
    assert prior.cfg_is_affine == (family.name not in ("lumina2", "qwen-image"))
    owners = [entry.owner for call in context.calls for entry in call]
    masks = family.name == "qwen-image"  # which pipelines leave out of a single, negative prompt
    assert owners.count("prompt") == owners.count("negative") + masks == family.entries


@torch.no_grad()
def test_the_first_step_is_finite_and_so_is_its_unit_of_moves(prior: Prior) -> None:
    step = prior.schedule(STEPS)[0]
    z = prior.noise(generators(), STEPS)
    prediction = prior.denoiser(prior.encode(PROMPTS, ""), 2.0)(z, step)
    assert all(part.isfinite().all() for part in prediction)
    assert 0 < step.uncertainty < float("inf")
    torch.testing.assert_close(
        step.signal * prediction.clean + step.noise * prediction.noise, z, atol=1e-4, rtol=1e-4
    )


@torch.no_grad()
def test_half_precision_keeps_float32_between_the_networks(family: Any, pipe: Any) -> None:
    prior = load_prior(pipe, call=family.call, dtype=torch.bfloat16)
    exact = load_prior(pipe, call=family.call)
    z, images = own_loop(prior, "", 3.0)
    assert z.dtype == images.dtype == torch.float32
    assert not torch.equal(z, z.bfloat16().float())
    torch.testing.assert_close(z, own_loop(exact, "", 3.0)[0], atol=0.3, rtol=0.1)


@torch.no_grad()
def test_a_vae_that_overflows_in_float16_decodes_in_float32(family: Any, new_pipe: Any) -> None:
    """As SDXL's does, and AuraFlow's; what its pipeline casts for each image is left alone in the pipeline itself."""
    prior = load_prior(new_pipe.to(torch.float16), call=family.call)
    (denoiser,) = (part.module for part in prior.components() if part.role == "denoiser")
    assert prior.dtype == safe_dtype(type(denoiser), torch.float16)
    expected = safe_dtype(type(prior.vae), torch.float16)
    assert prior.vae.dtype == (torch.float32 if family.name in ("sdxl", "aura-flow") else expected)
    z = torch.randn(prior.latent_shape(1))
    assert prior.vae_latents(z).dtype == torch.float32
    half = prior.replaced(vae=new_pipe.vae)
    assert half.vae_latents(z).dtype == torch.float32
    assert prior.decode(z).isfinite().all()
    assert new_pipe.vae.dtype == torch.float16


@torch.no_grad()
def test_shapes_are_known_without_weights(family: Any, pipe: Any, prior: Prior) -> None:
    hollow = load_prior(pipe, device="meta", call=family.call)
    assert hollow.device.type == "meta"
    with counting():  # which works shapes out once for layers that are alike
        z, images = own_loop_shapes(hollow)
    assert z == prior.latent_shape(2)
    assert images == (2, 3, *prior.image_size)
    assert hollow.latent_shape(2) == prior.latent_shape(2)


def own_loop_shapes(prior: Prior) -> tuple[torch.Size, torch.Size]:
    z, image = own_loop(prior, "", 3.0)
    return z.shape, image.shape


def test_its_parts_are_named(family: Any, prior: Prior) -> None:
    roles = [component.role for component in prior.components()]
    assert roles.count("denoiser") == roles.count("decoder") == 1
    encoders = prior.text_encoders()
    assert tuple(encoder.key for encoder in encoders) == family.encoders
    assert roles.count("text encoder") == len(encoders)
    for encoder in encoders:
        assert encoder.row_scale == pytest.approx(family.row_scale)
        assert encoder.tokenizer("a dog").input_ids


def test_torch_s_own_generator_is_left_alone(prior: Prior) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    with torch.no_grad():
        own_loop(load_prior(prior.pipe, call=prior.call), "", 2.0)
    assert torch.equal(torch.rand(1), expected)
