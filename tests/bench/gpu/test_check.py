"""What `make gpu` checks on a GPU runs here in the interpreter, on small maps."""

import pytest
import torch
from ddis_kernels import _triton, _triton_moments, use_backend

CPU = torch.device("cpu")


@pytest.fixture
def exactness(gpu):
    """The module, with every tensor served by the Triton kernels; skipped where they could not run on a CPU."""
    if not _triton.INTERPRETED:
        pytest.skip("needs TRITON_INTERPRET=1")
    module = gpu("exactness")
    with use_backend("triton"):
        yield module


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_right_kernels_pass(exactness, dtype: torch.dtype) -> None:
    worst = exactness.worst_error(CPU, (2, 3, 5, 5), dtype, "channels_last")
    assert 0 < worst <= exactness.TOLERANCE[dtype]
    exactness.worst_error(CPU, (1, 2, 3, 3), dtype, "contiguous")


def test_right_small_ops_pass(exactness) -> None:
    exactness.check_small_ops(CPU, [(1, 1, 1, 1), (3, 5, 7, 7)])


def test_a_wrong_kernel_is_found(exactness, monkeypatch) -> None:
    right = _triton_moments.backward

    def wrong(x, gy, scale, shift, activation, offset, slope, *rest):
        right(x, gy, scale, shift, activation, offset, slope * 1.01, *rest)

    monkeypatch.setattr(_triton_moments, "backward", wrong)
    with pytest.raises(
        AssertionError, match=r"wrong: \(2, 3, 5, 5\) torch.float32 contiguous none:"
    ):
        exactness.worst_error(CPU, (2, 3, 5, 5), torch.float32, "contiguous")


def test_claims_name_the_tolerances_that_are_checked(exactness, gpu) -> None:
    checked = {
        str(dtype).removeprefix("torch."): most for dtype, most in exactness.TOLERANCE.items()
    }
    assert checked == gpu("claims").TOLERANCE


def test_cases_are_reported_by_what_they_found(gpu, tmp_path) -> None:
    check, record = gpu("check"), gpu("record").Record(tmp_path / "check.json")
    rows = {
        "a": {"dtype": "float32", "worst_error": 1e-6},
        "b": {"dtype": "float32", "worst_error": 2e-6},
        "c": {"error": "AssertionError: wrong"},
        "network": {"fused_error": 0.01, "parts_error": 0.02},
        "small ops": {},
    }
    check._report(record, rows)
    assert record.rows["worst_relative_error"] == {"float32": 2e-6}
    assert record.rows["wrong"] == {"c": {"error": "AssertionError: wrong"}}
    assert record.rows["networks"] == {"network": rows["network"]}
    assert record.rows["done"] == 5


def test_a_worker_that_dies_is_an_error(gpu, card, tmp_path, monkeypatch) -> None:
    check, record = gpu("check"), gpu("record").Record(tmp_path / "check.json")

    class Dead:
        exitcode = -11

        def __init__(self, **_) -> None: ...

        def start(self) -> None: ...

        def is_alive(self) -> bool:
            return False

    monkeypatch.setattr(check.multiprocessing, "Process", Dead)
    with pytest.raises(RuntimeError, match=r"1 of 1 processes ended with exit codes \[-11\]"):
        check.measure(record, card)
