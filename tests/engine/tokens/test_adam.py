"""Adam row by row, and bitsandbytes' 8-bit Adam on a joint table, on both sides of its floor of 4,096 elements."""

import sys

import pytest
import torch
from torch import Tensor, nn

from engine.errors import MissingExtraError
from engine.tokens.adam import JointAdam8bit, adam_update, row_optimizer
from engine.tokens.state import ON_DEVICE, TokenState

RATE = 0.01
BELOW, ABOVE = (3, 128), (4, 1024)
"""Tables of 384 and of exactly 4,096 elements."""


def at_start(shape: tuple[int, int], optimizer: str = "adam8bit") -> TokenState:
    return TokenState.at_start(range(shape[0]), torch.randn(shape), optimizer)


def joint(state: TokenState) -> JointAdam8bit:
    return JointAdam8bit(state, range(len(state.classes)), RATE)


def stepped_alone(rows: Tensor, grads: list[Tensor]) -> Tensor:
    """Where torch's Adam takes rows (n, D)."""
    leaf = nn.Parameter(rows.detach().clone())
    optimiser = torch.optim.Adam([leaf], lr=RATE)
    for grad in grads:
        leaf.grad = grad
        optimiser.step()
    return leaf.detach()


def test_adam_is_torch_s_adam_row_by_row():
    state = at_start((3, 5), "adam")
    rows, grads = state.rows.detach().clone(), [[], [], []]
    for numbers in ([0, 1, 2], [0, 2], [2], [0, 1, 2]):
        grad = torch.randn(len(numbers), 5)
        adam_update(state, numbers, grad, RATE)
        for number, row in zip(numbers, grad, strict=True):
            grads[number].append(row)
    alone = torch.stack([stepped_alone(row, taken) for row, taken in zip(rows, grads, strict=True)])
    torch.testing.assert_close(state.rows.detach(), alone, rtol=1e-6, atol=1e-7)
    assert state.updates.tolist() == [3, 2, 4]


@pytest.mark.parametrize(("shape", "dtype"), [(BELOW, torch.float32), (ABOVE, torch.uint8)])
def test_moments_are_in_8_bit_from_4096_elements_on(shape, dtype):
    """Below, the steps are Adam's; above, they differ from it by quantised moments, and still agree in the main."""
    state = at_start(shape)
    start, optimiser = state.rows.detach().clone(), joint(state)
    grads = [torch.randn(shape) + 1.0 for _ in range(5)]
    for grad in grads:
        optimiser.step(list(range(shape[0])), grad)
    moved, expected = state.rows.detach() - start, stepped_alone(start, grads) - start
    assert {state.joint[name].dtype for name in ("state1", "state2")} == {dtype}
    gap = (moved - expected).norm() / expected.norm()
    assert gap < (1e-3 if dtype is torch.float32 else 0.1)
    assert dtype is torch.float32 or gap > 1e-4
    assert state.momentum.numel() == state.square.numel() == 0


@pytest.mark.parametrize("shape", [BELOW, ABOVE])
def test_a_row_that_stops_does_not_move_on_with_its_momentum(shape):
    state = at_start(shape)
    optimiser = joint(state)
    everyone = list(range(shape[0]))
    optimiser.step(everyone, torch.ones(shape))
    stopped = state.rows[1].detach().clone()
    others = [number for number in everyone if number != 1]
    for _ in range(3):
        before = state.rows[0].detach().clone()
        optimiser.step(others, torch.ones(len(others), shape[1]))
        assert torch.equal(state.rows[1].detach(), stopped)
        assert (state.rows[0] < before).all()
    assert state.updates.tolist() == [4, 1, *[4] * (shape[0] - 2)]
    optimiser.step([], torch.empty(0, shape[1]))
    assert torch.equal(state.rows[1].detach(), stopped)


def test_a_row_that_sits_a_step_out_goes_on_from_where_it_was():
    """As one does whose gradient was not finite: the step that momentum would have made is not caught up with."""
    state = at_start(BELOW)
    optimiser = joint(state)
    optimiser.step([0, 1, 2], torch.ones(BELOW))
    before = state.rows[1].detach().clone()
    for _ in range(3):
        optimiser.step([0, 2], torch.ones(2, BELOW[1]))
    optimiser.step([0, 1, 2], torch.ones(BELOW))
    assert 0 < (before - state.rows[1].detach()).max() < 1.5 * RATE


@pytest.mark.parametrize("shape", [BELOW, ABOVE])
def test_a_new_optimiser_goes_on_with_the_state_s_moments(shape):
    """As a run does that is cut: it ends at the same bits, and without the moments it would not."""
    grads = [torch.randn(shape) for _ in range(4)]
    everyone = list(range(shape[0]))
    start = torch.randn(shape)
    ends = {}
    for kept in ("whole", "cut", "lost"):
        state = TokenState.at_start(everyone, start, "adam8bit")
        optimiser = joint(state)
        for number, grad in enumerate(grads):
            if number == 2 and kept != "whole":
                state.joint = (
                    {name: value.clone() for name, value in state.joint.items()}
                    if kept == "cut"
                    else {}
                )
                optimiser = joint(state)
            optimiser.step(everyone, grad)
        ends[kept] = state.rows.detach()
    assert torch.equal(ends["cut"], ends["whole"])
    assert not torch.allclose(ends["lost"], ends["whole"], atol=1e-4)


def test_a_cohort_moves_its_own_rows_alone():
    state = at_start((6, 8))
    before = state.rows.detach().clone()
    row_optimizer("adam8bit", state, range(2, 5), RATE).step([2, 4], torch.ones(2, 8))
    moved = (state.rows.detach() != before).any(1).tolist()
    assert moved == [False, False, True, False, True, False]


def test_without_bitsandbytes_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(
        MissingExtraError,
        match=r"bitsandbytes cannot be imported .*extra 'gpu'.*pip install 'ddis\[gpu\]'",
    ):
        joint(at_start(BELOW))


def test_rows_and_moments_are_where_the_gradients_are_and_counts_on_the_cpu():
    """'meta' plays a GPU: an operator of tensors on both would raise."""
    meta = torch.device("meta")
    state = TokenState.at_start(range(3), torch.randn(3, 5).to(meta), "adam")
    adam_update(state, [0, 2], torch.randn(2, 5).to(meta), RATE)
    assert {getattr(state, name).device for name in ON_DEVICE} == {meta}
    assert state.updates.tolist() == [1, 0, 1]
    assert {state.outcome.device.type, state.accuracy.device.type, state.scale.device.type} == {
        "cpu"
    }
