"""Moments merged from parts are those of the whole, and rows in a file behave like a tensor."""

import subprocess
import sys

import pytest
import torch

from engine.errors import ConfigError
from engine.evaluation.features import FeatureFile, RunningMoments
from engine.evaluation.intervals import counts, interval, kid_interval, mean_interval
from engine.evaluation.metrics import gaussian, kid

MIB = 2**20


@pytest.mark.parametrize("parts", [[413], [1] * 413, [0, 200, 1, 212]])
def test_moments_do_not_depend_on_the_parts(two_sets, parts: list[int]) -> None:
    samples = two_sets[0] + 1e3
    running = RunningMoments(24)
    for part in samples.split(parts):
        running.add(part)
    whole = gaussian(samples)
    assert running.gaussian().rows == 413
    torch.testing.assert_close(running.gaussian().mean, whole.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        running.gaussian().covariance, whole.covariance, rtol=1e-8, atol=1e-9
    )


def test_no_rows_have_no_covariance() -> None:
    with pytest.raises(ConfigError, match="a set has 0 images"):
        RunningMoments(24).gaussian()


def test_rows_in_a_file_are_read_like_a_tensor(two_sets) -> None:
    rows = two_sets[0]
    with FeatureFile(24) as file:
        for part in rows.split([100, 1, 312]):
            file.append(part)
        assert file.shape == rows.shape
        for part in (
            slice(0, 1),
            slice(50, 150),
            slice(400, 999),
            slice(None),
            slice(0, 20, 3),
            slice(5, 5),
        ):
            assert torch.equal(file[part], rows[part])
        index = torch.randperm(413)[:50]
        assert torch.equal(file[index], rows[index])
        assert kid(file, two_sets[1]) == kid(rows, two_sets[1])


def test_an_interval_of_a_mean_has_the_width_that_theory_gives() -> None:
    values = torch.randn(400) * 3 + 1
    low, high = mean_interval(values, counts(400, 2000))
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std().item() / 20, rel=0.1)


def test_an_interval_is_moved_onto_its_estimate() -> None:
    """Resampled FIDs lie all above the estimate; the interval must not."""
    low, high = interval(1.0, torch.linspace(4, 6, 101))
    assert (low, high) == pytest.approx((1 - 0.95, 1 + 0.95))


def test_kid_s_interval_leaves_out_pairs_of_a_row_with_itself(two_sets) -> None:
    samples, reference = two_sets[0][:40].double(), two_sets[1][:30].double()
    low, high = kid_interval(0.0, samples, reference, resamples=50)
    drawn = counts(40, 50)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    values = []
    for weights in drawn:
        rows = order.repeat_interleave(weights.long())
        kernel = (samples[rows] @ samples[rows].T / 24 + 1) ** 3
        apart = rows[:, None] != rows[None, :]
        across = ((samples[rows] @ reference.T / 24 + 1) ** 3).mean()
        values.append(kernel[apart].mean() - 2 * across)
    assert (low, high) == pytest.approx(interval(0.0, torch.stack(values)), rel=1e-6)


MEMORY = """
import torch
from engine.evaluation.features import FeatureFile, RunningMoments
from engine.evaluation.metrics import kid
from engine.memory.measure import peak_bytes
for rows in (1_000, 40_000):
    with FeatureFile(512) as file:
        moments = RunningMoments(512)
        for _ in range(rows // 1000):
            part = torch.randn(1000, 512)
            file.append(part)
            moments.add(part)
        kid(file, file, subsets=2)
    print(peak_bytes(torch.device("cpu")))
"""


@pytest.mark.slow
def test_forty_times_the_rows_take_no_more_memory() -> None:
    """40,000 rows of 512 are 78 MiB; what stays in memory is the moments and one part."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True
    )
    few, many = map(int, done.stdout.split())
    assert many - few < 24 * MIB
