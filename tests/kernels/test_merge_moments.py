"""merge_moments: the union of parts has the moments of the whole."""

import pytest
import torch
from ddis_kernels import Moments, channel_moments_reference, merge_moments


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_parts_make_the_whole(backend, offset, feature_map, assert_as_good):
    x = feature_map((7, 1030, 3), offset=offset)
    x[:2] += 5
    parts = [channel_moments_reference(part) for part in (x[:2], x[2:])]
    same = channel_moments_reference(x)
    exact = channel_moments_reference(x.double())
    for triple in zip(merge_moments(*parts, 6, 15), same, exact, strict=True):
        assert_as_good(*triple, ulps=16 + offset)  # the parts' own rounding, relative to their mean


def test_an_empty_part_changes_nothing(backend):
    a = Moments(torch.randn(5), torch.rand(5))
    nothing = Moments(torch.zeros(5), torch.zeros(5))
    torch.testing.assert_close(tuple(merge_moments(nothing, a, 0, 9)), tuple(a))
    torch.testing.assert_close(tuple(merge_moments(a, nothing, 9, 0)), tuple(a))


def test_moments_of_single_images(backend):
    a, b = (Moments(torch.randn(3, 5), torch.rand(3, 5)) for _ in range(2))
    merged = merge_moments(a, b, 4, 4)
    torch.testing.assert_close(merged.mean, (a.mean + b.mean) / 2)
    torch.testing.assert_close(merged.var, (a.var + b.var) / 2 + (a.mean - b.mean).square() / 4)


def test_refuses():
    a = Moments(torch.zeros(3), torch.zeros(3))
    with pytest.raises(
        ValueError, match="counts 0 and 0, expected at least 0 each and more than 0 together"
    ):
        merge_moments(a, a, 0, 0)
    with pytest.raises(ValueError, match="expected one shape, dtype and device"):
        merge_moments(a, Moments(torch.zeros(4), torch.zeros(4)), 1, 1)
