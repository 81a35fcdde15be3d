"""The images of learning on a real, tiny prior: where gradients come from, and what an image costs."""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from engine.errors import GuidanceError
from engine.guidance.move import Guidance, Unguided
from engine.priors import Context, Prior, Step
from engine.sampling.loop import in_interval, sample
from engine.sampling.noise import ImageNoise
from engine.settings import Alignment, Sampling
from engine.tokens.attached import attached
from engine.tokens.table import TokenTable
from engine.tokens.trajectories import DRAWN_FROM, Trajectories, gradient_steps
from engine.types import ImageKey

CLASSES = 3
KEYS = [ImageKey(0, 0), ImageKey(0, 1)]


def double(prior: Prior) -> Prior:
    """A copy of a prior in float64."""
    parts = ("text_encoder", "unet", "vae")
    return prior.replaced(
        **{name: copy.deepcopy(getattr(prior.pipe, name)).double() for name in parts}
    )


def of_two_dogs(prior: Prior) -> Context:
    return prior.encode(["a dog"] * 2, "")


def leaf_of(context: Context) -> tuple[Tensor, Context]:
    """A leaf that gradients reach, and the context that it is in."""
    leaf = context.packed().clone().requires_grad_()
    return leaf, context.with_packed(leaf)


def by_hand(
    prior: Prior, row: Tensor, z: Tensor, steps: int, cfg: float, first_with_graph: int
) -> Tensor:
    """Images of 'a S dog' by diffusers' own scheduler and the textbook's CFG, S the last row of a larger embedding."""
    tokenizer, encoder = copy.deepcopy(prior.pipe.tokenizer), copy.deepcopy(prior.pipe.text_encoder)
    tokenizer.add_tokens(["<ddis-dog>"])
    ids = tokenizer(["a <ddis-dog> dog", ""], padding="max_length", return_tensors="pt").input_ids
    larger = torch.cat([encoder.get_input_embeddings().weight, row[None]])
    encoder.get_input_embeddings().register_forward_pre_hook(
        lambda _, inputs: (inputs[0].clamp(max=len(larger) - 2),)
    )
    encoder.get_input_embeddings().register_forward_hook(lambda *_: larger[ids])
    words, nothing = encoder(ids).last_hidden_state
    scheduler = copy.deepcopy(prior.pipe.scheduler)
    scheduler.set_timesteps(steps)
    for number, timestep in enumerate(scheduler.timesteps):
        with torch.set_grad_enabled(number >= first_with_graph):
            noise, free = (
                prior.pipe.unet(
                    z, timestep, encoder_hidden_states=text.expand(len(z), -1, -1)
                ).sample
                for text in (words, nothing)
            )
            z = scheduler.step(free + cfg * (noise - free), timestep, z).prev_sample
    return (prior.vae.decode(z / prior.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)


def on_the_way(
    prior: Prior,
    sampling: Sampling,
    at: Sequence[int],
    context: Context | None = None,
    **changes: Any,
) -> Trajectories:
    """Two images of "a dog", or of another context."""
    context = of_two_dogs(prior) if context is None else context
    settings = {"seed": 0, "guide": lambda keys: Unguided(), **changes}
    return Trajectories(prior, KEYS, context, sampling, at=at, **settings)


def decoded(trajectories: Trajectories, update: int, context: Context, start: int = 0) -> Tensor:
    """Images (n, 3, H, W) that the step of an update predicts."""
    return trajectories.prior.decode(trajectories.latents(update, context, start))


def sampled_whole(
    prior: Prior, sampling: Sampling, seen: list[tuple[Step, Tensor]] | None = None
) -> Tensor:
    """The same two images, flat, as generation makes them."""
    noise = ImageNoise(0, KEYS, prior.latent_shape(1)[1:], dtype=prior.dtype)
    denoise = in_interval(partial(prior.denoiser, of_two_dogs(prior)), sampling)
    on_step = (lambda *step: seen.append(step)) if seen is not None else None
    with torch.no_grad():
        z = sample(
            noise.draw(),
            denoise,
            prior.schedule(sampling.steps),
            on_step=on_step,
            eta=sampling.eta,
            noise=noise,
        )
        return prior.decode(z).flatten(1)


def test_the_gradient_comes_through_the_last_step_alone(tiny_prior: Prior):
    prior, sampling = double(tiny_prior), Sampling(steps=3, cfg=4.0, eta=0.0)
    row, z = (
        torch.randn(32, dtype=torch.float64),
        ImageNoise(0, KEYS, (4, 4, 4), dtype=torch.float64).draw(),
    )
    readout = torch.randn(3, 32, 32, CLASSES, dtype=torch.float64)

    def gradient(images: Tensor, leaf: Tensor) -> Tensor:
        logits = torch.einsum("nchw,chwk->nk", images.reshape(2, 3, 32, 32), readout)
        return torch.autograd.grad(cross_entropy(logits, torch.tensor([0, 0])), leaf)[0]

    leaf = row[None].clone().requires_grad_()
    table = TokenTable(leaf, {"clip": 32}, (0,), ("dog",), ("<ddis-dog>",), prior.fingerprint, "")
    with attached(prior, table) as speaking:
        context = speaking.encode(["a <ddis-dog> dog"] * 2, "")
        images = on_the_way(speaking, sampling, [2], context)
        images.prepare(0)
        ours = gradient(decoded(images, 0, context), leaf)[0]
    twins = [row.clone().requires_grad_() for _ in range(2)]
    last, whole = (
        gradient(by_hand(prior, twin, z, 3, 4.0, first), twin)
        for twin, first in zip(twins, (2, 0), strict=True)
    )
    assert ours.norm() > 0
    assert (ours - last).norm() < 1e-6 * last.norm()
    assert (ours - whole).norm() > 1e-2 * whole.norm()
    assert images.complete
    assert (images.denoiser_forward.tolist(), images.denoiser_backward.tolist()) == ([6, 6], [2, 2])


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_each_update_reads_what_its_own_step_predicts(tiny_prior: Prior, cfg: float):
    """Predictions and gradients of one sampled batch are those of the steps of whole sampling."""
    prior, sampling = double(tiny_prior), Sampling(steps=5, cfg=cfg)
    seen: list[tuple[Step, Tensor]] = []
    sampled_whole(prior, sampling, seen)
    images = on_the_way(prior, sampling, [3, 1])
    for update, number in enumerate((3, 1)):
        leaf, context = leaf_of(images.context)
        images.prepare(update)
        read = decoded(images, update, context).flatten(1)
        expected = prior.decode(seen[number][1]).flatten(1)
        torch.testing.assert_close(read, expected, rtol=0, atol=1e-9)
        twin, whole = leaf_of(images.context)
        denoise = prior.denoiser(whole, cfg)
        joint = prior.decode(denoise(images.seen(number), images.schedule[number]).clean).flatten(1)
        readout = torch.randn_like(read)
        ours, theirs = (
            torch.autograd.grad((pixels * readout).sum(), leaf)[0]
            for pixels, leaf in ((read, leaf), (joint, twin))
        )
        assert theirs.norm() > 0
        assert (ours - theirs).norm() < 1e-6 * theirs.norm()
    branches = 1 if cfg == 1 else 2
    assert not images.complete
    assert images.denoiser_forward.tolist() == [branches * 3 + 2 + (branches - 1)] * 2
    assert images.denoiser_backward.tolist() == [2, 2]


def test_a_gradient_outside_of_cfg_s_interval_is_of_the_conditional_branch(tiny_prior: Prior):
    prior, sampling = double(tiny_prior), Sampling(steps=4, cfg=4.0, cfg_start=0.5)
    seen: list[tuple[Step, Tensor]] = []
    sampled_whole(prior, sampling, seen)
    images = on_the_way(prior, sampling, [2, 1])
    for update, number in enumerate((2, 1)):
        images.prepare(update)
        torch.testing.assert_close(
            images.latents(update, images.context), seen[number][1], rtol=0, atol=1e-9
        )
    # Steps 0 and 1 without a negative branch; then 2 by its prompt alone and its kept null branch, and 1.
    assert images.denoiser_forward.tolist() == [2 + 1 + 1 + 1] * 2


@pytest.mark.parametrize("at", [[1], [2, 0], [3]])
@pytest.mark.parametrize("cfg_stop", [1.0, 0.5])
def test_images_are_finished_as_generation_makes_them(tiny_prior: Prior, at, cfg_stop: float):
    """Also some of them alone: the first image's noise is not the second's."""
    prior = double(tiny_prior)
    sampling = Sampling(steps=4, cfg=4.0, eta=1.0, cfg_stop=cfg_stop)
    whole = sampled_whole(prior, sampling)
    both = prior.decode(on_the_way(prior, sampling, at).finished([0, 1])).flatten(1)
    torch.testing.assert_close(both, whole, rtol=0, atol=1e-9)
    images = on_the_way(prior, sampling, at)
    torch.testing.assert_close(
        prior.decode(images.finished([1])).flatten(1), whole[1:], rtol=0, atol=1e-9
    )
    before = sum(2 if number < 4 * cfg_stop else 1 for number in range(max(at)))
    assert images.denoiser_forward.tolist() == [before, sampling.evaluations]


@pytest.mark.parametrize("at", [[1], [3]])
def test_images_in_parts_are_those_of_the_batch_however_often(tiny_prior: Prior, at):
    """Also at the last step, whose noise another run of it must not renew."""
    prior = double(tiny_prior)
    images = on_the_way(prior, Sampling(steps=4, cfg=4.0, eta=1.0), at)
    images.prepare(0)
    whole, again = (decoded(images, 0, images.context) for _ in range(2))
    parts = [decoded(images, 0, images.context[row : row + 1], row) for row in range(2)]
    assert torch.equal(whole, again)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-9)


def test_guidance_acts_in_every_step_and_sees_the_images_that_it_guides(tiny_prior: Prior):
    seen: list[tuple[int, int, bool]] = []

    class Watch(Unguided):
        def __init__(self, keys: Sequence[ImageKey]) -> None:
            super().__init__()
            self.keys = keys

        def move(self, clean: Tensor, step: Step) -> Tensor:
            seen.append((step.index, len(self.keys), torch.is_grad_enabled()))
            return clean

    images = on_the_way(tiny_prior, Sampling(steps=4, cfg=1.0), [3], guide=Watch)
    images.prepare(0)
    decoded(images, 0, leaf_of(images.context)[1])
    assert seen == [(0, 2, False), (1, 2, False), (2, 2, False), (3, 2, True)]
    seen.clear()
    on_the_way(tiny_prior, Sampling(steps=3, cfg=1.0), [1], guide=Watch).finished([1])
    assert seen == [(0, 2, False), (1, 1, False), (2, 1, False)]


def test_guidance_that_fails_too_often_is_an_error(tiny_prior: Prior):
    def broken(keys: Sequence[ImageKey]) -> Guidance:
        return Guidance(
            lambda z, scale: (z.new_zeros(len(z)), torch.full_like(z, torch.nan)),
            Alignment(statistics="image"),
        )

    with pytest.raises(GuidanceError, match=r"4 of 4 guidance moves had a gradient that is NaN"):
        on_the_way(tiny_prior, Sampling(steps=4, cfg=1.0), [2], guide=broken)


@pytest.mark.parametrize("steps", [1, 2, 15, 30])
def test_the_gradient_s_steps_are_the_last_or_drawn_from_the_early_ones(steps: int):
    rng = torch.Generator().manual_seed(0)
    assert gradient_steps("last", steps, 1, rng) == [steps - 1]
    first, end = (round(share * steps) for share in DRAWN_FROM)
    among = set(range(first, max(end, first + 1)))
    assert {gradient_steps("drawn", steps, 1, rng)[0] for _ in range(500)} == among
    for updates in (len(among), 2 * len(among) + 1):
        drawn = gradient_steps("drawn", steps, updates, rng)
        assert len(drawn) == updates
        assert set(drawn) == among
    assert max(among) < steps


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_each_update_reads_the_noisy_latents_that_guidance_moved(tiny_prior: Prior, cfg: float):
    """Also the update at the latest step, before which sampling stops."""

    def guide(keys: Sequence[ImageKey]) -> Guidance:
        return Guidance(lambda z, scale: (z.new_zeros(len(z)), z), Alignment.paper())

    prior, sampling = double(tiny_prior), Sampling(steps=5, cfg=cfg, eta=0.0)
    images, clean = on_the_way(prior, sampling, [3, 1], guide=guide), {}
    guidance, context = guide(KEYS), of_two_dogs(prior)
    with torch.no_grad():
        sample(
            ImageNoise(0, KEYS, prior.latent_shape(1)[1:], dtype=prior.dtype).draw(),
            guidance.before(in_interval(partial(prior.denoiser, context), sampling)),
            prior.schedule(sampling.steps),
            guidance.move,
            lambda step, found: clean.update({step.index: found}),
        )
    for update, number in enumerate((3, 1)):
        images.prepare(update)
        read = images.latents(update, images.context)
        torch.testing.assert_close(read, clean[number], rtol=0, atol=1e-9)
