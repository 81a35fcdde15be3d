"""The loss of a ResNet-50's 53 layers from their moments, with its gradient: one operator, or plain torch per layer."""

import pytest
import torch
from ddis_kernels import AlignmentTarget, Moments, alignment_loss
from torch.linalg import vector_norm

CHANNELS = (
    [64] * 7
    + [256] * 4
    + [128] * 8
    + [512] * 5
    + [256] * 11
    + [1024] * 7
    + [512] * 6
    + [2048] * 4
    + [64]
)


def plain(measured, stored):
    terms = [
        vector_norm(m.mean - s.mean) + vector_norm(m.var - s.var)
        for m, s in zip(measured, stored, strict=True)
    ]
    return torch.stack(terms).sum()


@pytest.mark.parametrize("contender", ["ours", "plain"])
def test_alignment(timed, benchmark, contender):
    benchmark.group = "alignment of 53 layers"
    stored = [Moments(torch.randn(c), torch.rand(c)) for c in CHANNELS]
    measured = [
        Moments(torch.randn(c).requires_grad_(), torch.rand(c).requires_grad_()) for c in CHANNELS
    ]
    target, leaves = AlignmentTarget.of(stored), [t for m in measured for t in m]
    loss = (
        (lambda: alignment_loss(measured, target))
        if contender == "ours"
        else (lambda: plain(measured, stored))
    )
    timed(lambda: torch.autograd.grad(loss(), leaves))
