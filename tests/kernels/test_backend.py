"""Which implementation serves a tensor, and what is said where it is missing."""

import os
import subprocess
import sys

import pytest
import torch
from ddis_kernels import MissingKernelsError, _backend, channel_moments, use_backend


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Python code in a fresh process."""
    variables = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False
    )


def test_each_tensor_gets_its_own(built):
    assert _backend.choose(torch.ones(1)) == "cpp"
    assert _backend.choose(torch.ones(1, dtype=torch.float64)) == "reference"
    with use_backend("reference"):
        assert _backend.choose(torch.ones(1)) == "reference"
    assert _backend.choose(torch.ones(1)) == "cpp"


def test_missing_build_says_how(monkeypatch):
    monkeypatch.setattr(_backend, "cpu", None)
    with pytest.raises(
        MissingKernelsError,
        match=r"no C\+\+ part .* `pip install \.` .* DDIS_KERNELS_BACKEND=reference",
    ):
        channel_moments(torch.ones(2, 3))
    with use_backend("reference"):
        assert channel_moments(torch.ones(2, 3)).mean.tolist() == [1, 1, 1]


def test_unknown_backend():
    with (
        pytest.raises(ValueError, match="'fast', expected one of auto, reference, cpp, triton"),
        use_backend("fast"),
    ):
        pass
    done = run("import ddis_kernels", DDIS_KERNELS_BACKEND="fast")
    assert "kernels backend is 'fast', expected one of" in done.stderr


def test_imports_without_triton_and_without_the_extension():
    """A wheel without a compiler, on a machine without Triton, works on the reference, and only if told so."""
    code = (
        "import sys; sys.modules['triton'] = None; sys.modules['ddis_kernels._cpu'] = None\n"
        "import torch, ddis_kernels as k\n"
        "x = torch.ones(2, 3)\n"
        "try: k.channel_moments(x)\n"
        "except k.MissingKernelsError as error: print('refused')\n"
        "with k.use_backend('reference'): print(k.channel_moments(x).mean.sum().item())\n"
    )
    done = run(code, DDIS_KERNELS_BACKEND="auto")
    assert done.stdout.split() == ["refused", "3.0"], done.stderr


def test_reads_tensors_in_place(built):
    """Arguments that do not fit are refused by name of the rule, never copied or read beyond their end."""
    x, row = torch.ones(2, 3, 4, 4), torch.empty(3)
    for bad, message in (
        ((x[:, :, ::2], row, row), "contiguous or channels_last"),
        ((x, row[:2], row), "one float32 per channel"),
        ((x, row, torch.empty(6)[::2]), "one float32 per channel"),
        ((x.double(), row, row), "expected float32, float16 or bfloat16"),
        ((x.to("meta"), row, row), "incompatible function arguments"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            built.channel_moments(*bad, 1, 1)


def test_reads_objects_with_dlpack_alone(built):
    """Without DLPack's C exchange API, as in other libraries, the slower `__dlpack__` serves."""
    x = torch.randn(4, 3)
    mean, var = torch.empty(3), torch.empty(3)
    built.channel_moments(x.numpy(), mean.numpy(), var.numpy(), 1, 1)
    torch.testing.assert_close(mean, x.mean(0))
