"""What bench/gpu_suite.py checks on a GPU runs here in the interpreter, on small maps, and its tables can be made."""

import sys
from pathlib import Path

import pytest
import torch
from ddis_kernels import _triton, _triton_moments, use_backend

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def suite(monkeypatch):
    """The script as a module; skipped where its kernels could not run on a CPU."""
    if not _triton.INTERPRETED:
        pytest.skip("needs TRITON_INTERPRET=1")
    monkeypatch.syspath_prepend(str(BENCH))
    names = ("contenders", "gpu_memory", "gpu_suite", "networks", "sweep", "tables", "timing")
    assert not {*names} & {*sys.modules}
    import gpu_suite

    with use_backend("triton"):
        yield gpu_suite
    for name in names:
        sys.modules.pop(name, None)


def test_right_kernels_pass(suite, monkeypatch):
    monkeypatch.delitem(suite.TOLERANCE, torch.bfloat16)  # seconds saved: the interpreter is slow
    worst = suite.check("cpu", [(2, 3, 5, 5)], [(1, 2, 3, 3)])
    assert {*worst} == {"torch.float32", "torch.float16"}
    suite.check_small_ops("cpu", [(1, 1, 1, 1), (3, 5, 7, 7)])


def test_a_wrong_kernel_is_found(suite, monkeypatch):
    right = _triton_moments.backward

    def wrong(x, gy, scale, shift, activation, offset, slope, *rest):
        right(x, gy, scale, shift, activation, offset, slope * 1.01, *rest)

    monkeypatch.setattr(_triton_moments, "backward", wrong)
    with pytest.raises(
        SystemExit, match=r"wrong: \(2, 3, 5, 5\) torch.float32 contiguous none tile None: error"
    ):
        suite.check("cpu", [(2, 3, 5, 5)], [])


def test_bandwidth_is_told_of_large_maps_alone(suite):
    row = {
        "op": "bn_relu_moments",
        "dtype": "float16",
        "layout": "contiguous",
        "us": {"ours": 1000.0},
    }
    rows = [{**row, "shape": [64, 64, 112, 112]}, {**row, "shape": [16, 64, 56, 56]}]
    nbytes = 2 * torch.Size([64, 64, 112, 112]).numel()
    shares = suite.shares_of_copy(
        rows, copy=2 * 5 * nbytes / 1e6
    )  # twice what the row moves in its millisecond
    assert shares == {"bn_relu_moments (64, 64, 112, 112) float16 contiguous": 0.5}


def test_memory_is_measured_in_a_process_of_its_own_into_the_same_file(
    suite, monkeypatch, tmp_path
):
    """Its command is one that bench/gpu_memory.py takes; without a GPU it ends there, with the reason."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    commands = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(suite.subprocess, "run", lambda command, check: commands.append(command))
    suite.measure_memory(tmp_path / "kernels_cuda.json", quick=True)
    ((python, script, *options),) = commands
    assert (python, script) == (sys.executable, BENCH / "gpu_memory.py")
    import gpu_memory

    with pytest.raises(SystemExit, match="no CUDA device here"):
        gpu_memory.main([str(option) for option in options])
    assert list(tmp_path.iterdir()) == []
