"""Tiles of the Triton kernels follow from sizes by rule: few for a whole network, right at every edge."""

import os
import subprocess
import sys

import pytest
import torch
from ddis_kernels import (
    _triton,
    _triton_moments,
    bn_act_moments,
    bn_act_moments_reference,
    use_backend,
)
from ddis_kernels._triton_tiles import Tile, backward_tile, in_vectors, measure_tile, vector_of


@pytest.mark.parametrize(
    ("neighbours", "nbytes", "vector"),
    [(3136, 2, 8), (3136, 4, 4), (196, 2, 4), (196, 4, 4), (49, 2, 1), (98, 4, 1), (1, 2, 1)],
)
def test_a_vector_divides_the_row_and_is_at_most_128_bits(neighbours, nbytes, vector):
    assert vector_of(neighbours, nbytes) == vector


@pytest.mark.parametrize("nbytes", [2, 4])
@pytest.mark.parametrize("interleaved", [False, True])
def test_a_tile_gives_each_thread_whole_vectors(interleaved, nbytes):
    for channels in (1, 3, 48, 64, 512, 2048):
        for pixels in (1, 49, 196, 3136, 12544):
            measuring = measure_tile(channels, pixels, interleaved, nbytes)
            going_back = backward_tile(channels if interleaved else pixels, nbytes)
            for tile in (measuring, going_back):
                assert tile.rows * tile.columns % (32 * tile.warps * tile.vector) == 0
            assert in_vectors(channels, pixels, interleaved, measuring.vector) == (
                (channels // measuring.vector, pixels)
                if interleaved
                else (channels, pixels // measuring.vector)
            )


def test_the_layers_of_a_network_share_tiles():
    sides = {64: 112, 128: 28, 256: 56, 512: 7, 1024: 14, 2048: 7}
    for interleaved, most in ((False, 3), (True, 1)):
        tiles = {measure_tile(c, side**2, interleaved, 2) for c, side in sides.items()}
        assert len(tiles) == most
    assert len({backward_tile(width, 2) for width in sides}) == 3


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((2, 3, 24, 25), "contiguous"),  # planes that no vector divides
        ((2, 3, 14, 14), "contiguous"),  # four at a time in half precision
        ((2, 3, 24, 24), "contiguous"),
        ((2, 65, 8, 17), "channels_last"),
        ((2, 72, 8, 17), "channels_last"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
def test_every_alignment_is_right(shape, layout, dtype, activation, feature_map):
    if not _triton.INTERPRETED:
        pytest.skip("needs TRITON_INTERPRET=1")
    channels = shape[1]
    x = feature_map(shape, dtype, layout, offset=2)
    k, b = torch.linspace(-1, 1, channels), torch.full((channels,), 40.0)  # off ReLU's kink
    weights = torch.randn(shape).to(dtype), torch.randn(channels), torch.randn(channels)

    def outputs(op, x):
        leaf = x.detach().requires_grad_()
        out = op(leaf, k, b, activation)
        same = [w.to(o.dtype) for w, o in zip(weights, out, strict=True)]
        return [*(o.detach() for o in out), torch.autograd.grad(list(out), leaf, same)[0]]

    exact, error = outputs(bn_act_moments_reference, x.double()), 4 * torch.finfo(dtype).eps
    with use_backend("triton"):
        got = outputs(bn_act_moments, x)
    for g, e in zip(got, exact, strict=True):
        assert (g.double() - e).abs().max() <= error * e.abs().max().clamp(min=1)


@pytest.mark.parametrize("side", [7, 14, 16])
def test_many_parts_of_a_channel_are_merged(monkeypatch, side, feature_map):
    """More parts than are merged at a time, the last of them short."""
    if not _triton.INTERPRETED:
        pytest.skip("needs TRITON_INTERPRET=1")
    monkeypatch.setattr(_triton_moments, "MOST_PARTS", 23)
    monkeypatch.setattr(_triton_moments, "MERGED", 8)
    monkeypatch.setattr(
        _triton_moments.tiles, "measure_tile", lambda c, s, *_: Tile(4, 1, 1, vector_of(s, 4))
    )
    x = feature_map((3, 2, side, side), offset=1e3)
    with use_backend("triton"):
        _, mean, var = bn_act_moments(x, torch.ones(2), torch.zeros(2))
    exact = x.double()
    assert (mean - exact.mean((0, 2, 3))).abs().max() <= 1e-3 * 0.25
    assert (var - exact.var((0, 2, 3), correction=0)).abs().max() <= 1e-3


def test_counters_of_finished_programs_are_kept_by_stream_and_never_cleared(monkeypatch):
    """On CUDA a launch clears nothing: the programs leave zeros. A captured launch owns its counters."""
    made, capturing = [], [False]

    class Stream:
        cuda_stream = 7

    def zeros(*size, dtype, device):
        made.append(size)
        return torch.ones(1)

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    monkeypatch.setattr(torch, "zeros", zeros)
    monkeypatch.setattr(_triton_moments, "_kept_counters", {})
    device = torch.device("cuda", 0)
    first = _triton_moments._counters(device)
    assert _triton_moments._counters(device) is first
    assert len(made) == 1
    assert first.item() == 1  # as it was made
    Stream.cuda_stream = 8
    assert _triton_moments._counters(device) is not first
    capturing[0] = True
    assert _triton_moments._counters(device) is not _triton_moments._counters(device)


def test_importing_asks_no_device():
    code = (
        "import torch\n"
        "def refuse(*_, **__): raise SystemExit('a device was asked')\n"
        "for name in ('_lazy_init', 'is_available', 'device_count', 'current_device', 'get_device_capability'):\n"
        "    setattr(torch.cuda, name, refuse)\n"
        "import ddis_kernels\n"
        "from triton.runtime import driver\n"
        "assert driver._active is None, 'a driver was started'\n"
        "print('imported')\n"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["imported"], done.stderr
