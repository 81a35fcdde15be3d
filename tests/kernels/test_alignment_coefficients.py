"""The alignment loss of a network, its gradient's affine form, and exact large batches from micro-batches."""

import pytest
import torch
from ddis_kernels import (
    AlignmentTarget,
    Moments,
    alignment_coefficients,
    alignment_loss,
    channel_moments,
    channel_moments_reference,
    merge_moments,
    micro_batch_loss,
)
from ddis_kernels.alignment_coefficients import align_op
from torch.library import opcheck
from torch.linalg import vector_norm

CHANNELS = (3, 4, 1, 5)
WIDE = (3, 8, 1, 600)  # more than one block of a program
WEIGHTS = [(1.0, 1.0), (0.5, 2.0), (10.0, 0.0), (0.1, 0.3)]


def stored(channels=CHANNELS):
    return [Moments(torch.randn(c), torch.rand(c) + 0.5) for c in channels]


def plain_loss(measured, kept, norm):
    """The formula of the docstring, layer by layer."""
    power = 2 if norm == "l2_squared" else 1
    terms = [
        (a * vector_norm(m.mean - s.mean, dim=-1)) ** power
        + (b * vector_norm(m.var - s.var, dim=-1)) ** power
        for m, s, (a, b) in zip(measured, kept, WEIGHTS, strict=True)
    ]
    return torch.stack(terms).sum(0)


def inputs(images):
    return [torch.randn(images, c, 4, 4) * 1.5 + 1 for c in CHANNELS]


@pytest.mark.parametrize("norm", ["l2", "l2_squared"])
@pytest.mark.parametrize("images", [0, 3], ids=["batch", "three images"])
def test_loss_and_its_gradient(backend, norm, images, assert_as_good):
    kept, shape = stored(WIDE), ((images,) if images else ())
    measured = [Moments(torch.randn(*shape, c), torch.rand(*shape, c)) for c in WIDE]
    results = []
    for convert, loss_of in (
        (torch.Tensor.float, lambda m: alignment_loss(m, AlignmentTarget.of(kept, WEIGHTS, norm))),
        (torch.Tensor.float, lambda m: plain_loss(m, kept, norm)),
        (torch.Tensor.double, lambda m: plain_loss(m, kept, norm)),
    ):
        leaves = [Moments(*(convert(t).clone().requires_grad_() for t in m)) for m in measured]
        loss = loss_of(leaves)
        flat = [t for m in leaves for t in m]
        results.append([loss.detach(), *torch.autograd.grad((loss * 3).sum(), flat)])
    for got, same, exact in zip(*results, strict=True):
        assert_as_good(got, same, exact)


def test_no_gap_has_no_gradient(backend):
    kept = stored()
    loss, layers = alignment_coefficients(kept, AlignmentTarget.of(kept), [4] * 4)
    assert loss == 0
    assert all((layer.A == 0).all() and (layer.B == 0).all() for layer in layers)


@pytest.mark.parametrize("per_image", [False, True], ids=["batch", "image"])
def test_gradient_is_affine_in_the_input(backend, per_image):
    xs, target = (
        [x.requires_grad_() for x in inputs(images=2)],
        AlignmentTarget.of(stored(), WEIGHTS),
    )
    moments = [channel_moments(x, per_image) for x in xs]
    loss = alignment_loss(moments, target)
    expected = torch.autograd.grad(loss.sum(), xs)
    measured = [Moments(m.mean.detach(), m.var.detach()) for m in moments]
    again, layers = alignment_coefficients(
        measured, target, [x.numel() // m.mean.numel() for x, m in zip(xs, measured, strict=True)]
    )
    torch.testing.assert_close(again, loss.detach())
    for layer, x, gradient in zip(layers, xs, expected, strict=True):
        a, b = (t.reshape(-1, x.shape[1], 1, 1) for t in (layer.A, layer.B))
        torch.testing.assert_close(a + b * x.detach(), gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("norm", ["l2", "l2_squared"])
def test_micro_batches_give_the_whole_batch_gradient(backend, norm):
    """Pass one merges the moments; pass two sends A + B x through each micro-batch."""
    xs, target = inputs(images=6), AlignmentTarget.of(stored(), WEIGHTS, norm)
    leaves = [x.double().requires_grad_() for x in xs]
    expected = torch.autograd.grad(
        plain_loss([channel_moments_reference(x) for x in leaves], stored_of(target), norm), leaves
    )
    sizes = (1, 2, 3)
    merged, seen = None, 0
    for part in zip(*(x.split(sizes) for x in xs), strict=True):
        moments, count = [channel_moments(x) for x in part], part[0].shape[0] * 16
        merged = (
            moments
            if merged is None
            else [merge_moments(a, b, seen, count) for a, b in zip(merged, moments, strict=True)]
        )
        seen += count
    _, layers = alignment_coefficients(merged, target, [seen] * len(xs))
    for number, size in enumerate(sizes):
        part = [x.split(sizes)[number].clone().requires_grad_() for x in xs]
        loss = micro_batch_loss(layers, [channel_moments(x) for x in part], [size * 16] * len(xs))
        for got, whole in zip(torch.autograd.grad(loss, part), expected, strict=True):
            torch.testing.assert_close(
                got.double(), whole.split(sizes)[number], rtol=1e-4, atol=1e-6
            )


def stored_of(target):
    return [
        Moments(m, v)
        for m, v in zip(
            target.mean.split(target.channels), target.var.split(target.channels), strict=True
        )
    ]


def test_operator_is_sound():
    target = AlignmentTarget.of(stored(), WEIGHTS)
    mean, var = (torch.randn(2, sum(CHANNELS), requires_grad=True) for _ in range(2))
    arguments = (target.mean, target.var, target.weights, target.splits, False)
    opcheck(align_op, (mean, var, *arguments))


def test_compiles_whole():
    target = AlignmentTarget.of(stored(), WEIGHTS)
    measured = [Moments(torch.randn(c), torch.rand(c)) for c in CHANNELS]
    compiled = torch.compile(alignment_loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(measured, target), alignment_loss(measured, target))


def test_refuses():
    kept = stored()
    with pytest.raises(ValueError, match="norm is 'l1', expected one of l2, l2_squared"):
        AlignmentTarget.of(kept, norm="l1")
    with pytest.raises(ValueError, match="4 layers and 1 weights, expected one pair"):
        AlignmentTarget.of(kept, [(1, 1)])
    with pytest.raises(
        ValueError, match=r"3 layers with \(3, 4, 1\) channels, expected \(3, 4, 1, 5\)"
    ):
        alignment_loss(kept[:3], AlignmentTarget.of(kept))
    target = AlignmentTarget.of(kept)
    with pytest.raises(
        ValueError, match=r"layer 0 with stored mean \(3,\) and variance \(2,\), expected \(C,\)"
    ):
        AlignmentTarget.of([Moments(kept[0].mean, kept[0].var[:2]), *kept[1:]])
    for pair in ((1, float("nan")), (1, -1), (1, 2, 3)):
        with pytest.raises(ValueError, match="for layer 0, expected two finite ones of at least 0"):
            AlignmentTarget.of(kept, [pair] * 4)
    for counts in ((), (1, 1, 0, 1)):
        with pytest.raises(ValueError, match="for 4 layers, expected one above 0 for each"):
            alignment_coefficients(kept, target, counts)
    with pytest.raises(TypeError, match=r"moments of torch\.float16, expected float32"):
        alignment_loss([Moments(m.mean.half(), m.var.half()) for m in kept], target)
