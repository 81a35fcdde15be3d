"""A guided step in parts."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch._C._autograd import DeviceType

from engine import profile
from engine.classifiers import Classifier
from engine.errors import ConfigError, OutputError
from engine.memory.profile import by_part, covered
from engine.priors import Prior
from engine.settings import Alignment


def test_a_step_is_told_in_parts_with_a_trace(
    small_prior: Prior, classifier: Classifier, tmp_path: Path
) -> None:
    found = profile(small_prior, classifier, 2, trace=tmp_path / "new" / "trace.json", repeats=1)
    parts = dict(found.milliseconds)
    step = parts.pop("step")
    assert set(parts) == {
        "denoiser",
        "decode",
        "classifier",
        "backward",
        "own kernels",
        "host gaps",
    }
    assert all(0 < ms < step for ms in parts.values())
    assert parts["denoiser"] + parts["decode"] + parts["classifier"] + parts[
        "backward"
    ] == pytest.approx(step, rel=0.1)
    assert found.time_ratio == pytest.approx(found.guided_ms / found.plain_ms, rel=1e-3)
    assert found.time_ratio > 1
    names = {
        event["name"]
        for event in json.loads((tmp_path / "new" / "trace.json").read_text())["traceEvents"]
    }
    assert {"step", "sampling", "guidance", "decode", "classifier", "aten::convolution"} <= names
    assert json.loads(json.dumps(found.to_json()))["images"] == 2


def test_a_trace_that_cannot_be_written_is_refused_before_the_step(
    small_prior: Prior, classifier: Classifier, tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match=f"cannot write {tmp_path}: it is a folder"):
        profile(small_prior, classifier, 1, trace=tmp_path)


def test_the_paper_costs_no_less(small_prior: Prior, classifier: Classifier) -> None:
    ours, paper = (
        profile(small_prior, classifier, 1, a, repeats=1) for a in (Alignment(), Alignment.paper())
    )
    assert (
        1 < ours.flops_ratio <= 1.001 * paper.flops_ratio
    )  # ours has a cross-entropy, of a few FLOPs, as well


def test_each_move_of_a_step_costs_another_pass(small_prior: Prior, classifier: Classifier) -> None:
    one, three = (
        profile(small_prior, classifier, 1, Alignment(moves=moves), repeats=1) for moves in (1, 3)
    )
    assert three.flops_ratio - 1 == pytest.approx(3 * (one.flops_ratio - 1), rel=1e-3)


def test_nothing_cannot_be_profiled(small_prior: Prior, classifier: Classifier) -> None:
    with pytest.raises(
        ConfigError, match="profiling got 0 images and 3 repeats, expected at least 1 of each"
    ):
        profile(small_prior, classifier, 0)


def test_spans_that_overlap_count_once() -> None:
    assert covered([(0, 4), (1, 2), (3, 6), (10, 11)]) == 7
    assert covered([]) == 0


def event(
    name: str, on: DeviceType, start: float, end: float, device_us: float, marked: bool
) -> SimpleNamespace:
    return SimpleNamespace(
        name=name,
        device_type=on,
        device_time_total=device_us,
        cpu_time_total=end - start,
        is_user_annotation=marked,
        time_range=SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start),
    )


def test_what_cuda_repeats_on_its_own_timeline_counts_once() -> None:
    """A step of 100 us with kernels in 70 of them: annotations on the GPU span its gaps and double the host's times."""
    cpu, cuda = DeviceType.CPU, DeviceType.CUDA
    marks = {
        "step": (0, 100, 70),
        "sampling": (0, 40, 30),
        "guidance": (40, 100, 40),
        "decode": (40, 60, 15),
    }
    events = [
        event(name, on, start, end, us, on == cpu)
        for name, (start, end, us) in marks.items()
        for on in (cpu, cuda)
    ]
    events += [event("gemm", cuda, 5, 35, 30, False), event("conv", cuda, 50, 90, 40, False)]
    parts = by_part(events, True)
    assert parts == {
        "denoiser": 0.03,
        "decode": 0.015,
        "classifier": 0,
        "backward": 0.025,
        "own kernels": 0,
        "host gaps": 0.03,
        "step": 0.1,
    }
