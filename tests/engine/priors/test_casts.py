"""Networks in float16, and networks that refuse to be cast."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import ConfigError
from engine.memory.subject import weights_bytes
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
