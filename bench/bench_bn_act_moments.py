"""bn_act_moments, forward and backward, against the hook, the layer without moments, and copies of the same bytes."""

import pytest
import torch
from contenders import layer_contenders


@pytest.mark.parametrize("contender", ["ours", "plain", "hook", "limit"])
@pytest.mark.parametrize(
    "memory_format",
    [torch.contiguous_format, torch.channels_last],
    ids=["contiguous", "channels_last"],
)
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_layer(timed, benchmark, contender, memory_format, activation):
    shape = (16, 64, 56, 56)
    benchmark.group = f"bn_act_moments {activation} {shape} {memory_format}"
    x = torch.randn(shape).to(memory_format=memory_format)
    timed(layer_contenders(x, activation, with_inductor=False)[contender])
