"""bench/gpu/memory.py on the CPU, at a tiny width: all but CUDA's own calls is what runs on a GPU."""

import json

import pytest
import torch

from engine.classifiers import Classifier
from engine.priors import Prior
from engine.settings import Sampling, TokenLearning


@pytest.fixture
def memory(bench_script):
    return bench_script("gpu.memory")


@pytest.fixture
def card(bench_script):
    return bench_script("gpu.card").Card("cpu")


@pytest.fixture
def settings(memory):
    learning = TokenLearning(
        epochs=2,
        steps=3,
        updates_per_trajectory=1,
        target_accuracy=1.0,
        skip_passing=False,
        init="a",
        check_images=0,
    )
    return memory.Settings(sampling=Sampling(steps=3), learning=learning, rounds=1)


@pytest.fixture
def caps(card, monkeypatch) -> list[int]:
    """The caps that were asked for."""
    asked: list[int] = []
    monkeypatch.setattr(card, "cap", asked.append)
    return asked


@pytest.mark.slow
def test_every_phase_is_measured_next_to_its_plan(
    memory, card, caps, settings, small_prior: Prior, classifier: Classifier
) -> None:
    row = memory.case_row(card, small_prior, classifier, "1GB", 2, settings)
    assert caps == [10**9]
    assert row["warnings"] == []
    generate, learn = row["generate"], row["learn"]
    unpolished = [phase for phase in memory.PHASES if phase != "polish"]
    assert [*generate["phases"], *learn["phases"]] == [*unpolished, *memory.LEARNING]
    for phase in (*generate["phases"].values(), *learn["phases"].values(), generate["run"]):
        assert phase["predicted_bytes"] == pytest.approx(phase["measured_bytes"], rel=0.1)
        assert phase["error"] == pytest.approx(
            phase["predicted_bytes"] / phase["measured_bytes"] - 1, abs=1e-4
        )
    step = generate["step"]
    assert step["guided_s"] > step["plain_s"] > 0
    assert step["ratio"] == pytest.approx(step["guided_s"] / step["plain_s"], abs=1e-3)
    assert learn["update"]["seconds_per_update"] > 0
    assert learn["update"]["images"] == 2
    assert learn["update"]["measured_bytes"] > learn["phases"]["rows"]["measured_bytes"] > 0
    assert generate["run"]["finite"]
    assert generate["plan"]["micro_batch"]["guidance"] == 2
    assert 0 < memory.errors([row])["largest"] < 0.1
    json.dumps(row)  # it can be written


def test_what_does_not_fit_is_reported_and_the_rest_is_measured(
    memory, card, caps, settings, small_prior: Prior, classifier: Classifier, monkeypatch
) -> None:
    def short(subject, case):
        if case.phase == "guidance" and case.images == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")
        return run_case(subject, case)

    run_case = memory.run_case
    monkeypatch.setattr(memory, "run_case", short)
    for slow in ("timed_step", "_whole_run", "_learn"):
        monkeypatch.setattr(memory, slow, lambda *_: {})
    models = small_prior, classifier
    phases = memory.case_row(card, *models, "1GB", 2, settings)["generate"]["phases"]
    assert phases["guidance"].keys() == {"predicted_bytes", "out_of_memory"}
    assert "Tried to allocate 9.00 GiB" in phases["guidance"]["out_of_memory"]
    assert "error" in phases["decode"]
    refused = memory.case_row(card, *models, "1KB", 2, settings)["generate"]["refused"]
    assert "1.00KB is too small" in refused
    assert "expected at least" in refused
    assert caps == [10**9, 10**3]


def test_another_failure_is_reported_under_another_name(memory, card) -> None:
    def broken():
        raise RuntimeError("device-side assert triggered")

    assert memory.attempted(card, broken) == {
        "failed": "RuntimeError: device-side assert triggered"
    }


def test_the_cap_names_a_device_that_torch_accepts(bench_script, monkeypatch) -> None:
    """torch refuses a CUDA device without an index; its own check runs here, and CUDA's calls alone are replaced."""
    calls = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1, 10 * 10**9))
    monkeypatch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)
    monkeypatch.setattr(
        torch._C, "_cuda_setMemoryFraction", lambda *given: calls.append(given), raising=False
    )
    card = bench_script("gpu.card").Card("cuda")
    card.cap(8 * 10**9)
    card.cap(12 * 10**9)  # never more than all
    assert calls == [(0.8, 0), (1.0, 0)]
    with pytest.raises(ValueError, match="index"):
        torch.cuda.set_per_process_memory_fraction(0.5, torch.device("cuda"))
