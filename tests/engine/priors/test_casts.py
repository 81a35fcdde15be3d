"""Networks in float16, and networks that refuse to be cast."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import ConfigError
from engine.memory.skeleton import skeleton_prior
from engine.memory.subject import weights_bytes
from engine.networks.quantised import Linear8bit
from engine.priors import Prior, load_prior

HALF = torch.float16


def dtypes(prior: Prior) -> tuple[set[torch.dtype], set[torch.dtype]]:
    """Of T5's layers that overflow in float16, and of all its others."""
    weights = prior.pipe.text_encoder.named_parameters()
    found: tuple[set[torch.dtype], set[torch.dtype]] = (set(), set())
    for name, value in weights:
        found[".wo." not in name].add(value.dtype)
    return found


@torch.no_grad()
def test_what_overflows_in_float16_stays_float32(
    families: Any, pipe_of: Callable[[str], Any], tmp_path: Path
) -> None:
    """However a prior is loaded, and where it is counted alone."""
    pipe, call = pipe_of("pixart-sigma"), families["pixart-sigma"].call
    pipe.save_pretrained(tmp_path)
    read = load_prior(tmp_path, device="cpu", dtype=HALF, call=call)
    hollow = load_prior(tmp_path, device="meta", dtype=HALF, call=call)
    given = load_prior(pipe, dtype=HALF, call=call)
    named = load_prior("arch:pixart-sigma", device="meta", dtype=HALF)
    for prior in (read, hollow, given, named):
        assert dtypes(prior) == ({torch.float32}, {HALF})
    sizes = [weights_bytes(prior.pipe.text_encoder, set()) for prior in (read, hollow, given)]
    assert sizes[0] == sizes[1] == sizes[2]
    assert dtypes(load_prior(pipe, call=call)) == ({torch.float32},) * 2
    assert dtypes(load_prior(read.pipe, call=call)) == ({torch.float32}, {HALF})
    exact = load_prior(pipe, call=call).encode(["a dog"]).packed()
    torch.testing.assert_close(read.encode(["a dog"]).packed().float(), exact, atol=0.01, rtol=0.01)


@torch.no_grad()
def test_networks_that_overflow_in_float16_are_bfloat16(
    families: Any, pipe_of: Callable[[str], Any], tmp_path: Path
) -> None:
    """Lumina 2 and its Gemma, whether loaded or counted alone; its VAE is no such network."""
    pipe, call = pipe_of("lumina2"), families["lumina2"].call
    pipe.save_pretrained(tmp_path)
    for device in ("cpu", "meta"):
        for source in (tmp_path, pipe):
            prior = load_prior(source, device=device, dtype=HALF, call=call)
            assert prior.dtype == prior.pipe.text_encoder.dtype == torch.bfloat16
            assert prior.vae.dtype == HALF
    assert pipe.transformer.dtype == torch.float32
    exact, found = (
        load_prior(source, device="cpu", dtype=dtype, call=call).encode(["a dog"]).packed()
        for source, dtype in ((pipe, None), (tmp_path, HALF))
    )
    torch.testing.assert_close(found.float(), exact, atol=0.1, rtol=0.1)


def test_a_plan_in_float16_counts_what_stays_float32(
    families: Any, pipe_of: Callable[[str], Any]
) -> None:
    """Of a prior that is loaded in another dtype."""
    pipe, call = pipe_of("pixart-sigma"), families["pixart-sigma"].call
    counted = skeleton_prior(load_prior(pipe, call=call), HALF)
    assert dtypes(counted) == ({torch.float32}, {HALF})
    loaded = load_prior(pipe, dtype=HALF, call=call)
    sizes = [weights_bytes(prior.pipe.text_encoder, set()) for prior in (counted, loaded)]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("dtype", [HALF, torch.bfloat16])
def test_rows_of_int8_are_rounded_once(dtype: torch.dtype) -> None:
    """A scale rounded to bfloat16 would be up to .4 % off, and its row with it."""
    exact = torch.nn.Linear(64, 32, bias=False)
    layer = Linear8bit(exact)
    layer.dtype = dtype
    expected = layer.levels * layer.scales.view(torch.float32)
    assert torch.equal(layer.assembled(), expected.to(dtype))


def test_a_pipeline_that_its_owner_quantised_is_neither_cast_nor_quantised_again(
    families: Any, pipe_of: Callable[[str], Any]
) -> None:
    """diffusers refuses any cast of such a network, even to its own dtype."""
    pipe, call = pipe_of("flux-dev"), families["flux-dev"].call
    pipe.transformer.is_quantized = True
    prior = load_prior(pipe, call=call)
    assert prior.network.proj_out.weight.data_ptr() == pipe.transformer.proj_out.weight.data_ptr()
    with pytest.raises(
        ConfigError,
        match=r"'int8' and the prior's transformer is quantised already, expected 'none'",
    ):
        load_prior(pipe, call=call, quantise="int8")
