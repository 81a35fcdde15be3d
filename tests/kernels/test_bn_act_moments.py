"""bn_act_moments: output, moments and gradient against float64; what it keeps; how it compiles."""

import pytest
import torch
from ddis_kernels import bn_act_moments, bn_act_moments_reference, fold_batch_norm
from ddis_kernels.bn_act_moments import backward_op, forward_op
from torch import nn
from torch.library import opcheck


def differentiated(op, x, constants, weights, activation, per_image):
    """(y, mean, var, gradient of their weighted sum) at x."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    outputs = op(x, *constants, activation, per_image)
    total = sum((out * w.to(out.dtype)).sum() for out, w in zip(outputs, weights, strict=True))
    return *(out.detach() for out in outputs), torch.autograd.grad(total, x)[0]


def compare(x, activation, per_image, check):
    channels = x.shape[1]
    # A large shift keeps ReLU's argument off zero, where rounding alone would decide its gradient.
    constants = (
        torch.linspace(-1, 1.5, channels),
        torch.where(torch.arange(channels) % 2 == 0, 40.0, -40.0),
    )
    if activation == "silu":
        constants = constants[0], constants[1] / 20
    moments = x.shape[:2] if per_image else x.shape[1:2]
    weights = torch.randn(x.shape).to(x.dtype), torch.randn(moments), torch.randn(moments)
    got = differentiated(bn_act_moments, x, constants, weights, activation, per_image)
    same = differentiated(bn_act_moments_reference, x, constants, weights, activation, per_image)
    exact = differentiated(
        bn_act_moments_reference,
        x.double(),
        constants,
        [w.double() for w in weights],
        activation,
        per_image,
    )
    assert got[0].dtype == x.dtype
    assert got[0].stride() == torch.empty_like(x).stride()
    for triple in zip(got, same, exact, strict=True):
        check(*triple)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_edges(backend, shape, layout, feature_map, assert_as_good):
    compare(feature_map(shape, layout=layout, offset=1), "relu", False, assert_as_good)


@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
@pytest.mark.parametrize("per_image", [False, True], ids=["batch", "image"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_activations(backend, activation, per_image, layout, feature_map, assert_as_good):
    compare(feature_map((3, 9, 7, 5), layout=layout), activation, per_image, assert_as_good)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
def test_half_precision(backend, dtype, activation, feature_map, assert_as_good):
    for layout in ("contiguous", "channels_last"):
        compare(feature_map((2, 17, 6, 6), dtype, layout), activation, False, assert_as_good)


def test_mean_far_from_zero(backend, feature_map, assert_as_good):
    compare(feature_map((4, 5, 16, 17), offset=1e3), "none", False, assert_as_good)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("per_image", [False, True], ids=["batch", "image"])
def test_threads_share_the_work(built, layout, per_image, feature_map, assert_as_good):
    torch.set_num_threads(8)
    compare(feature_map((5, 35, 45, 41), layout=layout), "relu", per_image, assert_as_good)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("per_image", [False, True], ids=["batch", "image"])
@pytest.mark.parametrize(
    ("channels", "side"), [(32, 136), (33, 135)], ids=["whole lines", "parts of lines"]
)
def test_results_larger_than_the_caches(
    built, layout, activation, per_image, channels, side, feature_map, assert_as_good
):
    compare(
        feature_map((2, channels, side, side), layout=layout), activation, per_image, assert_as_good
    )


def test_equals_batch_norm_and_relu(backend, feature_map):
    bn = nn.BatchNorm2d(6).eval()
    for values in (bn.weight, bn.bias, bn.running_mean):
        nn.init.normal_(values)
    nn.init.uniform_(bn.running_var, 0.5, 2)
    x = feature_map((3, 6, 5, 5))
    scale, shift = fold_batch_norm(bn)
    torch.testing.assert_close(bn_act_moments(x, scale, shift, "relu").y, bn(x).relu())
    bare = nn.BatchNorm2d(6, affine=False).eval()
    torch.testing.assert_close(bn_act_moments(x, *fold_batch_norm(bare), "none").y, bare(x))


def test_gradient_where_only_some_outputs_are_used(backend, feature_map):
    x, k, b = feature_map((2, 4, 5, 5)), torch.rand(4), torch.randn(4)
    for use in (lambda m: m.y.sum(), lambda m: m.mean.sum(), lambda m: m.var.sum()):
        grads = []
        for op in (bn_act_moments, bn_act_moments_reference):
            leaf = x.clone().requires_grad_()
            grads.append(torch.autograd.grad(use(op(leaf, k, b, "silu")), leaf)[0])
        torch.testing.assert_close(*grads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_keeps_one_tensor_in_its_own_dtype(dtype, feature_map):
    x, kept = feature_map((4, 8, 6, 6), dtype).requires_grad_(), []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        bn_act_moments(x, torch.rand(8), torch.randn(8))
    large = [t for t in kept if t.numel() > 8]
    assert [(t.data_ptr(), t.dtype) for t in large] == [(x.data_ptr(), dtype)]


def test_nan_passes_through_relu(backend):
    y = bn_act_moments(
        torch.full((1, 1, 4, 4), float("nan")), torch.ones(1), torch.zeros(1), "relu"
    ).y
    assert y.isnan().all()


@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
def test_gradcheck(activation):
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    constants = torch.rand(3) + 0.5, torch.randn(3)
    assert torch.autograd.gradcheck(lambda v: tuple(bn_act_moments(v, *constants, activation)), x)
    assert torch.autograd.gradcheck(lambda v: tuple(forward_op(v, *constants, activation, True)), x)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_operator_is_sound(layout, feature_map):
    x, k, b = feature_map((2, 5, 4, 3), layout=layout), torch.rand(5), torch.randn(5)
    opcheck(forward_op, (x.clone().requires_grad_(), k, b, "silu", False))
    rows = [torch.randn(5) for _ in range(3)]
    opcheck(backward_op, (x, torch.randn_like(x), k, b, "relu", *rows, False))


def test_compiles_whole(feature_map):
    x, k, b = feature_map((2, 5, 4, 3)).requires_grad_(), torch.rand(5), torch.randn(5)

    def loss(v):
        y, mean, var = bn_act_moments(v.sin(), k, b)
        return y.square().mean() + mean.square().sum() + var.sum()

    (eager,) = torch.autograd.grad(loss(x), x)
    (compiled,) = torch.autograd.grad(
        torch.compile(loss, fullgraph=True, backend="aot_eager")(x), x
    )
    torch.testing.assert_close(compiled, eager)


def test_refuses(feature_map):
    x, k = feature_map((2, 3, 4, 4)), torch.ones(3)
    with pytest.raises(
        ValueError, match="activation 'gelu', expected one of none, relu, silu: fuse with 'none'"
    ):
        bn_act_moments(x, k, k, "gelu")
    with pytest.raises(ValueError, match=r"scale \(4,\) torch.float32, expected \(3,\) float32"):
        bn_act_moments(x, torch.ones(4), k)
    with pytest.raises(
        ValueError, match=r"that requires a gradient, expected .* the layer is frozen"
    ):
        bn_act_moments(x, k, k.clone().requires_grad_())
    with pytest.raises(
        ValueError, match="scale on cpu, not contiguous, expected a contiguous tensor on cpu"
    ):
        bn_act_moments(x, torch.ones(6)[::2], k)
    with pytest.raises(ValueError, match="shift of type list, expected a contiguous tensor"):
        bn_act_moments(x, k, [1.0, 1.0, 1.0])
    with pytest.raises(TypeError, match=r"got list, expected a tensor \(N, C, \*\)"):
        bn_act_moments([1.0], k, k)
    with pytest.raises(ValueError, match="keeps no running statistics, expected a layer that does"):
        fold_batch_norm(nn.BatchNorm2d(3, track_running_stats=False))


def test_a_first_gradient_may_be_part_of_a_graph(feature_map):
    """In float64, which the reference serves, within the registered operator."""
    x = feature_map((2, 3, 4, 4)).double().requires_grad_()
    k = torch.ones(3, dtype=torch.float64)
    for activation in ("none", "relu", "silu"):
        out = bn_act_moments(x, k, k, activation)
        (gx,) = torch.autograd.grad(out.y.sum() + out.var.sum(), x, create_graph=True)
        (plain,) = torch.autograd.grad(
            (lambda m: m.y.sum() + m.var.sum())(bn_act_moments_reference(x, k, k, activation)), x
        )
        torch.testing.assert_close(gx, plain)


def test_a_lazy_sign_is_read(backend, feature_map):
    x = feature_map((2, 3, 4, 4))
    lazy = torch._neg_view(x)
    assert lazy.is_neg()
    got, k = bn_act_moments(lazy, torch.ones(3), torch.zeros(3), "none"), torch.ones(3)
    torch.testing.assert_close(got.y, -x)
    torch.testing.assert_close(got.mean, bn_act_moments(-x, k, torch.zeros(3), "none").mean)


def test_silu_far_below_zero_is_zero(built):
    x = torch.full((1, 1, 4, 4), -1e38)
    y = bn_act_moments(x, torch.ones(1), torch.zeros(1), "silu").y
    assert (y == 0).all()
