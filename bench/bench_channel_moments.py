"""channel_moments against the hook, eager torch and a plain read. The study `sweep` has all shapes, and inductor."""

import pytest
import torch
from contenders import moments_contenders


@pytest.mark.parametrize("contender", ["ours", "hook", "var_mean", "update_stats", "limit"])
@pytest.mark.parametrize(
    "memory_format",
    [torch.contiguous_format, torch.channels_last],
    ids=["contiguous", "channels_last"],
)
@pytest.mark.parametrize("shape", [(16, 64, 56, 56), (16, 512, 7, 7)], ids=str)
def test_moments(timed, benchmark, contender, memory_format, shape):
    benchmark.group = f"channel_moments {shape} {memory_format}"
    x = torch.randn(shape).to(memory_format=memory_format)
    timed(moments_contenders(x, with_inductor=False)[contender])
