"""Moments of 53 layers merged with another micro-batch's, one by one: the operator, or the same in plain torch."""

import pytest
import torch
from bench_alignment_coefficients import CHANNELS
from ddis_kernels import Moments, merge_moments, merge_moments_reference


@pytest.mark.parametrize("contender", ["ours", "plain"])
def test_merge(timed, benchmark, contender):
    benchmark.group = "merging 53 layers"
    pairs = [[Moments(torch.randn(c), torch.rand(c)) for _ in range(2)] for c in CHANNELS]
    merge = merge_moments if contender == "ours" else merge_moments_reference
    timed(lambda: [merge(a, b, 100, 28) for a, b in pairs])
