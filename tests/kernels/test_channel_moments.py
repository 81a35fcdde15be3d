"""channel_moments: forward and gradient of each implementation against float64, at the edges."""

import pytest
import torch
from ddis_kernels import (
    Moments,
    channel_moments,
    channel_moments_grouped,
    channel_moments_reference,
)
from ddis_kernels.channel_moments import gradient_op, measure_op
from torch.library import opcheck


def differentiated(op, x, weights, per_image):
    """(mean, var, gradient of their weighted sum) at x."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    moments = op(x, per_image)
    total = (moments.mean * weights[0] + moments.var * weights[1]).sum()
    return *(m.detach() for m in moments), torch.autograd.grad(total, x)[0]


def torch_moments(x, per_image):
    """torch's own, in float32."""
    axes = [axis for axis in range(x.dim()) if axis > 1 or (axis == 0 and not per_image)]
    if not axes:
        return channel_moments_reference(x, per_image)
    return Moments(*reversed(torch.var_mean(x.float(), axes, correction=0)))


def compare(x, per_image, check):
    weights = torch.randn(2, *(x.shape[:2] if per_image else x.shape[1:2]))
    got = differentiated(channel_moments, x, weights, per_image)
    same = differentiated(torch_moments, x, weights, per_image)
    exact = differentiated(channel_moments_reference, x.double(), weights.double(), per_image)
    assert [t.dtype for t in got] == [torch.float32, torch.float32, x.dtype]
    for triple in zip(got, same, exact, strict=True):
        check(*triple)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("per_image", [False, True], ids=["batch", "image"])
def test_edges(backend, shape, layout, per_image, feature_map, assert_as_good):
    compare(feature_map(shape, layout=layout, offset=3), per_image, assert_as_good)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_half_precision(backend, dtype, layout, feature_map, assert_as_good):
    for shape in ((2, 3, 5, 5), (3, 17, 9, 7)):
        compare(feature_map(shape, dtype, layout, offset=1), False, assert_as_good)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("offset", [1e3, -1e3])
def test_mean_far_from_zero(backend, layout, offset, feature_map, assert_as_good):
    compare(feature_map((4, 5, 16, 17), layout=layout, offset=offset), False, assert_as_good)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_first_value_is_an_outlier(backend, layout, feature_map, assert_as_good):
    """The shift of the sums starts from the first values: they may be far off."""
    x = feature_map((2, 3, 24, 24), layout=layout)
    x[0, :, 0, 0] = 1e4
    compare(x, False, assert_as_good)


def test_images_that_differ_by_much(backend, feature_map, assert_as_good):
    x = feature_map((6, 4, 9, 9)) + 100 * torch.arange(6.0).view(-1, 1, 1, 1)
    compare(x, False, assert_as_good)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(3, 70, 80, 80), (16, 2, 180, 182), (40, 3, 120, 120)])
@pytest.mark.parametrize("per_image", [False, True], ids=["batch", "image"])
def test_threads_share_the_work(built, layout, shape, per_image, feature_map, assert_as_good):
    torch.set_num_threads(8)
    compare(feature_map(shape, layout=layout, offset=2), per_image, assert_as_good)


@pytest.mark.parametrize("instructions", ["plain", "avx2", "avx512", "neon"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_instruction_sets(built, instructions, layout, dtype, feature_map, assert_as_good):
    before = built.instruction_set()
    try:
        built.use_instruction_set(instructions)
    except ValueError:
        pytest.skip(f"no {instructions} on this processor")
    try:
        compare(feature_map((3, 37, 9, 9), dtype, layout, offset=2), False, assert_as_good)
    finally:
        built.use_instruction_set(before)


def test_nan_and_infinity_stay_in_their_channel(backend, feature_map):
    x = feature_map((2, 3, 6, 6))
    x[1, 1, 2, 3] = float("nan")
    mean, var = channel_moments(x)
    assert mean.isnan().tolist() == var.isnan().tolist() == [False, True, False]


def test_constant_input_has_no_variance(backend):
    mean, var = channel_moments(torch.full((3, 2, 10, 10), 0.1))
    torch.testing.assert_close(mean, torch.full((2,), 0.1))
    assert (var >= 0).all()
    assert var.max() < 1e-14


def test_grouped(backend, feature_map):
    xs = [
        feature_map(size, layout=layout)
        for size, layout in (
            ((2, 3, 7, 7), "contiguous"),
            ((2, 9, 4, 4), "channels_last"),
            ((5, 4), ""),
        )
    ]
    for got, x in zip(channel_moments_grouped(xs), xs, strict=True):
        torch.testing.assert_close(tuple(got), tuple(channel_moments_reference(x)))
    with pytest.raises(ValueError, match="requires a gradient, expected none: detach it"):
        channel_moments_grouped([xs[0].requires_grad_()])


@pytest.mark.parametrize("per_image", [False, True])
def test_gradcheck(per_image):
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: tuple(channel_moments(v, per_image)), x)
    assert torch.autograd.gradcheck(lambda v: tuple(measure_op(v, per_image)), x)


def test_second_derivative_fails_loudly(feature_map):
    x = feature_map((2, 3, 4, 4)).requires_grad_()
    (gx,) = torch.autograd.grad(channel_moments(x).var.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        gx.sum().backward()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("per_image", [False, True])
def test_operator_is_sound(layout, per_image, feature_map):
    x = feature_map((2, 5, 4, 3), layout=layout)
    opcheck(measure_op, (x.clone().requires_grad_(), per_image))
    mean, var = channel_moments(x, per_image)
    opcheck(gradient_op, (x, mean, torch.randn_like(mean), torch.randn_like(var), per_image))


def test_compiles_whole(feature_map):
    x = feature_map((2, 5, 4, 3)).requires_grad_()

    def loss(v):
        moments = channel_moments(v * 2)
        return (moments.mean + moments.var).square().sum()

    (eager,) = torch.autograd.grad(loss(x), x)
    (compiled,) = torch.autograd.grad(
        torch.compile(loss, fullgraph=True, backend="aot_eager")(x), x
    )
    torch.testing.assert_close(compiled, eager)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (
            torch.ones(2, 3, dtype=torch.int64),
            TypeError,
            r"torch.int64, expected a floating dtype: convert",
        ),
        (
            torch.ones(0, 3, 2, 2),
            ValueError,
            r"shape \(0, 3, 2, 2\), expected \(N, C, \*\) with at least one",
        ),
        (torch.ones(3), ValueError, r"shape \(3,\), expected \(N, C, \*\): add an axis"),
    ],
)
def test_refuses(x, error, message):
    with pytest.raises(error, match=message):
        channel_moments(x)
