"""The stages of a run."""

import pytest
import torch

from engine.guidance.move import Unguided
from engine.priors import Context, Prior
from engine.sampling.loop import in_interval, sample
from engine.sampling.noise import ImageNoise
from engine.sampling.stages import drawn, encoded
from engine.settings import Sampling
from engine.types import ImageKey


@pytest.mark.parametrize("cfg", [1.0, 5.0])
@torch.no_grad()
def test_equal_prompts_are_encoded_once_and_stand_where_they_were_asked_for(
    tiny_prior: Prior, cfg: float
) -> None:
    asked: list[list[str]] = []

    def one_by_one(encode, prompts) -> list[Context]:
        asked.extend([prompt] for prompt in prompts)
        return [encode([prompt]) for prompt in prompts]

    prompts = ["a dog", "a horse", "a dog"]
    context = encoded(tiny_prior, prompts, Sampling(cfg=cfg), one_by_one)
    assert asked == [["a dog"], ["a horse"]]
    expected = tiny_prior.encode(prompts, "" if cfg != 1 else None)
    assert len(context) == 3
    torch.testing.assert_close(context.packed(), expected.packed(), rtol=0, atol=1e-5)
    owners = {entry.owner for call in context.calls for entry in call}
    assert ("negative" in owners) == (cfg != 1)


@torch.no_grad()
def test_a_group_is_drawn_from_its_own_noise_to_the_end_of_the_schedule(tiny_prior: Prior) -> None:
    keys = [ImageKey(0, 0), ImageKey(1, 0)]
    sampling = Sampling(steps=3, cfg=1.0, eta=1.0)

    def noise() -> ImageNoise:
        return ImageNoise(4, keys, tiny_prior.latent_shape(1)[1:])

    denoise = tiny_prior.denoiser(encoded(tiny_prior, ["a dog", "a cat"], sampling), 1.0)
    found = drawn(tiny_prior, denoise, noise(), sampling, Unguided())
    by_hand = noise()
    z = tiny_prior.noise(by_hand.generators, 3)
    expected = sample(z, denoise, tiny_prior.schedule(3), eta=1.0, noise=by_hand)
    assert torch.equal(found, expected)


@torch.no_grad()
def test_outside_of_its_interval_cfg_is_left_out(tiny_prior: Prior) -> None:
    sampling = Sampling(steps=4, cfg=5.0, cfg_start=0.25, cfg_stop=0.75)
    context = encoded(tiny_prior, ["a dog", "a cat"], sampling)
    bound: list[float] = []

    def denoiser(cfg: float):
        bound.append(cfg)
        return tiny_prior.denoiser(context, cfg)

    denoise = in_interval(denoiser, sampling)
    z = torch.randn(tiny_prior.latent_shape(2))
    for step, cfg in zip(tiny_prior.schedule(4), (1.0, 5.0, 5.0, 1.0), strict=True):
        expected = tiny_prior.denoiser(context, cfg)(z, step)
        assert torch.equal(denoise(z, step).clean, expected.clean)
    assert bound == [1.0, 5.0]
    assert (sampling.evaluations, Sampling(steps=4, cfg=5.0).evaluations) == (6, 8)
