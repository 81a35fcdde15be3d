"""What interrupting a pipeline costs: a step of the embedded prior, and the UNet's part of it alone."""

import pytest
import torch

from engine.priors import load_prior


@pytest.mark.parametrize("images", [1, 8])
@pytest.mark.parametrize("part", ["unet", "step"])
def test_step(timed, part, images):
    prior = load_prior("embedded")
    noise = prior.noise([torch.Generator().manual_seed(n) for n in range(images)], 30)
    step = prior.schedule(30)[10]
    with torch.no_grad():
        context = prior.encode(["a dog"] * images, "")
        rows = torch.cat([entry.value for entry in reversed(context.calls[0])])
        denoise = prior.denoiser(context, 4.0)
        both = torch.cat([noise, noise])
        work = {
            "unet": lambda: prior.network(both, step.timestep, rows, return_dict=False),
            "step": lambda: denoise(noise, step),
        }
        timed(work[part])
