"""Feature maps at the edges, the three implementations, and the yardstick: same-precision torch against float64."""

from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path

import pytest
import torch
from ddis_kernels import _backend, _triton, use_backend
from torch import Tensor

HERE = Path(__file__).parent
CASES = {
    "one element": (1, 1),
    "one value per channel": (1, 5, 1, 1),
    "batch of vectors": (9, 5),
    "sequence": (2, 3, 17),
    "volume": (2, 3, 2, 3, 5),
    "narrower than a vector": (3, 2, 1, 3),
    "one vector": (2, 8, 2, 4),
    "one more than a vector": (2, 9, 3, 3),
    "odd plane": (3, 9, 7, 7),
    "exactly one block": (1, 2, 64, 64),
    "one more than a block": (1, 2, 17, 241),
    "several blocks": (3, 2, 70, 31),
}


LARGE = 4000
"""Elements from which a shape takes seconds in Triton's interpreter."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave what takes long in Triton's interpreter to the slow lane: of equal branches one stays in the other."""
    for item in items:
        if item.path.parent == HERE and isinstance(item, pytest.Function) and _takes_long(item):
            item.add_marker(pytest.mark.slow)


def _takes_long(item: pytest.Function) -> bool:
    params = item.callspec.params if hasattr(item, "callspec") else {}
    if item.originalname == "test_every_alignment_is_right":
        return params["activation"] != "relu"
    if item.originalname == "test_many_parts_of_a_channel_are_merged":
        return params["side"] > 7
    if params.get("backend") != "triton":
        return False
    others = params.get("layout", "contiguous") != "contiguous" or params.get("per_image", False)
    match item.originalname:
        case "test_edges":
            return prod(params["shape"]) > LARGE and bool(others)
        case "test_half_precision":
            return bool(others) or params.get("activation", "relu") != "relu"
        case "test_activations":
            return bool(others)
    return False


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def shape(request) -> tuple[int, ...]:
    """Each of the shapes at which some branch of some implementation ends."""
    return request.param


@pytest.fixture(params=["reference", "cpp", "triton"])
def backend(request) -> Iterator[str]:
    """Each implementation in turn, serving every tensor of the test."""
    name = request.param
    if name == "triton" and not _triton.INTERPRETED:
        pytest.skip("needs triton and TRITON_INTERPRET=1, or a GPU (`make gpu`)")
    with use_backend(name):
        yield name


@pytest.fixture
def feature_map() -> Callable[..., Tensor]:
    """feature_map(shape, dtype, layout, offset): normal values, deviation 1 to 2 by channel, about `offset`."""

    def make(shape, dtype=torch.float32, layout="contiguous", offset=0.0) -> Tensor:
        spread = torch.linspace(1, 2, shape[1]).view(1, -1, *[1] * (len(shape) - 2))
        x = (torch.randn(shape) * spread + offset).to(dtype)
        if layout == "channels_last":
            x = x.movedim(1, -1).contiguous().movedim(-1, 1)
        if layout == "strided":
            x = torch.stack([x, torch.full_like(x, float("nan"))], dim=-1)[..., 0]
        return x

    return make


@pytest.fixture
def assert_as_good() -> Callable[..., None]:
    """assert_as_good(got, same, exact): got errs at most twice as much as `same` does against float64.

    The floor is a few units in the last place of the largest value; more of them in the interpreter, whose sums run
    over the first axis one after the other where a GPU adds in a tree.
    """

    def check(got: Tensor, same: Tensor, exact: Tensor, ulps: float = 16.0) -> None:
        ulps = 4 * ulps if _backend._wanted == "triton" else ulps
        floor = ulps * torch.finfo(torch.float32).eps * exact.abs().max().item()
        if got.dtype != torch.float32:
            floor = max(floor, torch.finfo(got.dtype).eps * exact.abs().max().item())
        allowed = max(2 * (same.double() - exact).abs().max().item(), floor)
        error = (got.double() - exact).abs().max().item()
        assert got.shape == exact.shape
        assert error <= allowed, f"error {error:.3e}, allowed {allowed:.3e}"

    return check


@pytest.fixture
def built() -> object:
    """The C++ extension: an environment without it is broken, unless plain torch was asked for."""
    assert _backend.cpu is not None, "build it: pip install ."
    return _backend.cpu
