"""A gradient that recomputes activations is the same gradient, in every family."""

import pytest
import torch
from torch import Tensor

from engine.memory.recompute import checkpointed
from engine.priors import Prior

PROMPTS = ["a dog", "a red cat"]


def gradient(prior: Prior) -> tuple[Tensor, Tensor]:
    """Of a loss of images that one step predicts, by their context and by the latents."""
    with torch.no_grad():
        context = prior.encode(PROMPTS, "")
        z = prior.noise([torch.Generator().manual_seed(n) for n in range(2)], 4)
    rows, z = context.packed().requires_grad_(), z.requires_grad_()
    denoise = prior.denoiser(context.with_packed(rows), 3.0)
    images = prior.decode(denoise(z, prior.schedule(4)[2]).clean, clamp=False)
    by_rows, by_z = torch.autograd.grad(images.square().mean(), [rows, z])
    return by_rows, by_z


@pytest.mark.shows("checkpointed")
def test_checkpointing_changes_no_gradient(prior: Prior) -> None:
    networks = [part.module for part in prior.components() if part.role in ("denoiser", "decoder")]
    expected = gradient(prior)
    runs: list[int] = []
    hooks = [
        part.register_forward_pre_hook(lambda *_: runs.append(1)) for part in networks[0].modules()
    ]
    try:
        gradient(prior)
        plain = len(runs)
        with checkpointed(networks):
            found = gradient(prior)
    finally:
        for hook in hooks:
            hook.remove()
    assert len(runs) > 2 * plain  # some ran again
    assert not any(getattr(network, "gradient_checkpointing", False) for network in networks)
    for one, other in zip(found, expected, strict=True):
        assert other.norm() > 0
        assert (one - other).norm() < 1e-5 * other.norm()


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_no_network_is_left_checkpointed(prior: Prior, ends: str) -> None:
    network = prior.network
    hooks = len(network._forward_pre_hooks)
    try:
        with checkpointed([network, torch.nn.Linear(1, 1)]):
            assert network.is_gradient_checkpointing
            if ends == "badly":
                raise KeyError
    except KeyError:
        pass
    assert not network.is_gradient_checkpointing
    assert len(network._forward_pre_hooks) == hooks
