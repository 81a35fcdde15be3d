"""Paired intervals: as wide as they should be, narrower than unpaired ones, and of both images and seeds."""

import pytest
import torch

from engine.downstream.intervals import difference


def test_an_interval_is_that_of_a_paired_mean() -> None:
    rng = torch.Generator().manual_seed(0)
    hard = torch.randn(1, 400, generator=rng) * 10  # what both find hard
    gap = torch.randn(1, 400, generator=rng)
    found = difference(hard + gap + 0.5, hard)
    centre, error = (gap + 0.5).mean().item(), gap.std().item() / 20
    assert found["mean"] == pytest.approx(centre, abs=1e-5)
    assert found["low"] == pytest.approx(centre - 1.96 * error, abs=0.2 * error)
    assert found["high"] == pytest.approx(centre + 1.96 * error, abs=0.2 * error)


def test_seeds_that_differ_widen_it() -> None:
    zeros = torch.zeros(3, 50)
    spread = torch.tensor([[-1.0], [0.0], [1.0]]).expand(3, 50)
    assert difference(zeros, zeros) == {"mean": 0, "low": 0, "high": 0}
    found = difference(spread, zeros)
    # The mean of three draws among -s, 0, s with s^2 = 3/2: 2 s / 3 or more in 4 of 27 on each side.
    assert found["mean"] == pytest.approx(0, abs=1e-9)
    assert found["high"] == pytest.approx(1.5**0.5, abs=1e-6)
    assert found["low"] == pytest.approx(-(1.5**0.5), abs=1e-6)
    other = difference(torch.ones(2, 50), spread)
    assert other["mean"] == pytest.approx(1)


def test_the_size_of_a_block_changes_nothing_that_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(1)
    ours, theirs = (torch.rand(3, 90, generator=rng) for _ in range(2))
    whole = difference(ours, theirs)
    monkeypatch.setattr("engine.downstream.intervals.AT_ONCE", 900)
    parts = difference(ours, theirs)
    assert parts["mean"] == whole["mean"]
    assert parts["low"] == pytest.approx(whole["low"], abs=0.01)
