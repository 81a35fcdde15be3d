"""Guidance between steps moves what the next step sees, as the engine's own loop does."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from torch import Tensor

from engine import Alignment, Classifier, guiding_callback, load_prior
from engine.errors import ConfigError, ModelError
from engine.guidance.assembly import guidance_of
from engine.guidance.decoder import decoder_of
from engine.sampling.loop import sample

NOISY = Alignment(target="noisy", scale=0.2)


@pytest.mark.parametrize("grows", [False, True])
def test_latents_are_moved_as_the_own_loop_moves_them_but_for_the_first_step(
    grows: bool, pipe: Any, classifier: Classifier, draw: Callable[..., Tensor], noise: Tensor
) -> None:
    if grows:
        pipe.scheduler = EulerDiscreteScheduler.from_config(
            pipe.scheduler.config, timestep_spacing="leading"
        )
    prior = load_prior(pipe)
    guided = draw(pipe, callback_on_step_end=guiding_callback(pipe, classifier, NOISY))
    with torch.no_grad():
        denoise = prior.denoiser(prior.encode(["a dog", "a red cat"], ""), 3.0)
        decoder = decoder_of(NOISY, prior, classifier.preprocess)
        guidance = guidance_of(classifier, NOISY, decoder, None)
        first, *others = prior.schedule(4)
        start = noise * (pipe.scheduler.init_noise_sigma * first.signal if grows else 1)
        z = sample(start, denoise, [first])
        own = prior.decode(sample(z, guidance.before(denoise), others))
    torch.testing.assert_close(guided, own, atol=1e-5, rtol=0)
    assert len(guidance.curve) == 2  # the last step is never guided


def test_what_a_callback_cannot_do_is_refused(pipe: Any, classifier: Classifier) -> None:
    with pytest.raises(ConfigError, match=r"target is 'clean' .*, expected 'noisy': .* use Guided"):
        guiding_callback(pipe, classifier, Alignment())

    class Silent(type(pipe)):
        def __call__(self, prompt: str, height: int, width: int) -> None: ...

    other = copy.copy(pipe)
    other.__class__ = Silent
    with pytest.raises(
        ModelError, match=r"a Silent takes no callback_on_step_end, expected .*: guide"
    ):
        guiding_callback(other, classifier)
    moves = guiding_callback(pipe, classifier, NOISY)
    with pytest.raises(ConfigError, match="tensor_inputs has prompt_embeds, expected 'latents'"):
        moves(pipe, 0, None, {"prompt_embeds": torch.zeros(1)})
