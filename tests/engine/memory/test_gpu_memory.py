"""bench/gpu_memory.py on the CPU, at a tiny width: CUDA's calls are replaced, all else is what runs on a GPU."""

import json
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.classifiers.cifar_resnet import CifarResNet
from engine.memory.count import counting
from engine.memory.measure import Measured
from engine.models import Prior
from engine.settings import Sampling, TokenLearning

BENCH = Path(__file__).resolve().parents[3] / "bench"
NAMES = ("contenders", "gpu_memory", "timing")


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    assert not {*NAMES} & {*sys.modules}
    import gpu_memory

    yield gpu_memory
    for name in NAMES:
        del sys.modules[name]


@pytest.fixture
def card(bench, small_prior: Prior, classifier: Classifier):
    networks = (small_prior.unet, small_prior.vae, small_prior.text_encoder, classifier.network)
    weights = sum(value.nbytes for n in networks for value in (*n.parameters(), *n.buffers()))

    class Pretended(bench.Card):
        """Tensors alive and weights, where CUDA tells what was reserved."""

        device = torch.device("cpu")
        dtype = torch.float32

        def __init__(self) -> None:
            self.caps, self.cleared = [], 0

        def cap(self, nbytes):
            self.caps.append(nbytes)

        def synchronise(self):
            pass

        def clear(self):
            self.cleared += 1

        @contextmanager
        def measuring(self):
            measured = Measured()
            with counting() as count:
                yield measured
            measured.peak_bytes = weights + count.peak

    return Pretended()


@pytest.fixture
def classifier(tiny_resnet: CifarResNet) -> Classifier:
    return load_classifier(
        tiny_resnet, labels=list("abcdefg"), preprocess=Preprocess.squash(16), device="cpu"
    )


@pytest.fixture
def settings(bench):
    learning = TokenLearning(
        epochs=2,
        steps=3,
        updates_per_trajectory=1,
        target_accuracy=1.0,
        skip_passing=False,
        init="a",
        check_images=0,
    )
    return bench.Settings(sampling=Sampling(steps=3), learning=learning, rounds=1)


def test_every_phase_is_measured_beside_its_plan(
    bench, card, settings, small_prior: Prior, classifier: Classifier
):
    row = bench.case_row(card, small_prior, classifier, "1GB", 2, settings)
    assert card.caps == [10**9]
    assert row["warnings"] == []
    assert (*row["generate"]["phases"], *row["learn"]["phases"]) == (*bench.PHASES, *bench.LEARNING)
    for phase in (
        *row["generate"]["phases"].values(),
        *row["learn"]["phases"].values(),
        row["generate"]["run"],
    ):
        assert phase["predicted_bytes"] == pytest.approx(phase["measured_bytes"], rel=0.1)
        assert phase["error"] == pytest.approx(
            phase["predicted_bytes"] / phase["measured_bytes"] - 1, abs=1e-4
        )
    step = row["generate"]["step"]
    assert step["guided_s"] > step["plain_s"] > 0
    assert step["overhead"] == pytest.approx(step["guided_s"] / step["plain_s"] - 1, abs=1e-3)
    assert row["learn"]["update"]["seconds_per_update"] > 0
    assert row["learn"]["update"]["images"] == 2
    assert row["generate"]["run"]["finite"]
    assert row["generate"]["plan"]["micro_batch"]["guidance"] == 2
    assert 0 < bench.errors([row])["largest"] < 0.1


def test_what_does_not_fit_is_told_and_the_suite_goes_on(
    bench, card, settings, small_prior: Prior, classifier: Classifier, monkeypatch, tmp_path
):
    def short(subject, case):
        if case.phase == "guidance" and case.images == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")
        return run_case(subject, case)

    def quiet(*_, **__):
        return {"plain_s": 1.0}

    run_case = bench.run_case
    monkeypatch.setattr(bench, "run_case", short)
    for slow in ("_step", "_whole_run", "_learn"):
        monkeypatch.setattr(bench, slow, quiet)
    file = tmp_path / "kernels_cuda.json"
    file.write_text('{"copy_gb_per_s": 2000}')
    seen = []

    def on_row(rows):
        bench.keep(file, rows)
        seen.append(json.loads(file.read_text()))

    rows = bench.suite(card, small_prior, [classifier], settings, ["1GB", "1KB"], [1, 2], on_row)
    assert [(row["batch"], row["budget"]) for row in rows] == [
        (1, "1GB"),
        (1, "1KB"),
        (2, "1GB"),
        (2, "1KB"),
    ]
    assert card.caps == [10**9, 10**3, 10**9, 10**3]
    assert "error" in rows[0]["generate"]["phases"]["guidance"]
    for row in rows[1::2]:
        assert "1.00KB is too small" in row["generate"]["refused"]
        assert "expected at least" in row["generate"]["refused"]
    phases = rows[2]["generate"]["phases"]
    assert phases["guidance"].keys() == {"predicted_bytes", "out_of_memory"}
    assert "Tried to allocate 9.00 GiB" in phases["guidance"]["out_of_memory"]
    assert "error" in phases["decode"]
    assert card.cleared == 1
    assert [len(kept["memory"]["rows"]) for kept in seen] == [1, 2, 3, 4]
    assert seen[-1]["copy_gb_per_s"] == 2000
    assert seen[-1]["memory"]["rows"] == json.loads(json.dumps(rows))


def test_what_is_no_matter_of_memory_is_not_hidden(bench, card):
    def broken():
        raise RuntimeError("device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side assert"):
        bench.attempted(card, broken)


def test_the_cap_is_a_share_of_the_card_and_never_more_than_all(bench, monkeypatch):
    fractions = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1, 10 * 10**9))
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: fractions.append(share)
    )
    for nbytes in (8 * 10**9, 12 * 10**9):
        bench.Card().cap(nbytes)
    assert fractions == [0.8, 1.0]


def test_without_a_gpu_it_says_so(bench, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit, match="no CUDA device here"):
        bench.main(["--into", str(tmp_path / "x.json")])
    assert list(tmp_path.iterdir()) == []
