"""Adapters in every family: gradients reach them, diffusers loads them, and merged they give the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from engine.errors import ModelError
from engine.lora.adapter import adapting, as_diffusers
from engine.priors import Prior, load_prior
from tests.engine.priors.conftest import Family


def predicted(prior: Prior) -> torch.Tensor:
    """What the denoiser says of fixed latents at a middle step."""
    context = prior.encode(["a dog", "a cat"])
    step = prior.schedule(4)[1]
    z = torch.randn(prior.latent_shape(2), generator=torch.Generator().manual_seed(0))
    return prior.denoiser(context, 1.0)(z, step).clean


UNADAPTED = ("pixart-alpha", "pixart-sigma")
"""Families whose pipelines diffusers loads no adapter into."""


@pytest.mark.parametrize("name", UNADAPTED)
def test_a_family_without_adapters_is_refused(
    name: str, pipe_of: Callable[[str], Any], families: dict[str, Family], tmp_path: Path
) -> None:
    pipe = pipe_of(name)
    pipe.save_pretrained(tmp_path)
    prior = load_prior(pipe, call=families[name].call, device="cpu")
    said = r"expected a (denoiser|pipeline) that diffusers has adapters for.*another prior"
    with pytest.raises(ModelError, match=said), adapting(prior, 2, seed=0):
        pass
    with pytest.raises(ModelError, match=said):
        load_prior(tmp_path, call=families[name].call, device="cpu", lora="any.safetensors")


@pytest.mark.shows("adapters")
def test_an_adapter_learns_is_loaded_by_diffusers_and_merged(
    family: Family, new_pipe: Any, tmp_path: Path
) -> None:
    if family.name in UNADAPTED:
        pytest.skip("diffusers has no adapters for it")
    folder, file = tmp_path / "prior", tmp_path / "adapter.safetensors"
    new_pipe.save_pretrained(folder)
    prior = load_prior(new_pipe, call=family.call, device="cpu")
    with torch.no_grad():
        before = predicted(prior)
    with adapting(prior, 2, seed=0) as parameters:
        assert torch.equal(predicted(prior).detach(), before)
        for _ in range(
            2
        ):  # the second matrices are zero at first, and so are the first ones' gradients
            predicted(prior).square().sum().backward()
            with torch.no_grad():
                used = [value for value in parameters.values() if value.grad is not None]
                for value in used:
                    value += 0.5 * value.grad.sign()  # type: ignore[union-attr]
                    value.grad = None
        with torch.no_grad():
            adapted = predicted(prior)
        assert len(used) > len(parameters) / 2  # what a last block makes of prompts, nothing reads
        save_file(as_diffusers(prior, parameters), file)
    with torch.no_grad():
        assert torch.equal(predicted(prior), before)
        assert not torch.allclose(adapted, before, atol=1e-4)
        merged = load_prior(folder, call=family.call, device="cpu", lora=file)
        assert torch.allclose(predicted(merged), adapted, rtol=1e-3, atol=1e-3)
        new_pipe.load_lora_weights(str(tmp_path), weight_name=file.name)
        assert torch.allclose(
            predicted(load_prior(new_pipe, call=family.call, device="cpu")),
            adapted,
            rtol=1e-3,
            atol=1e-3,
        )
