"""Recorded work, with a backend on the CPU that replays by computing again from the recorded inputs."""

import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.classifiers.cifar_resnet import CifarResNet
from engine.errors import ModelError
from engine.memory.budget import MemoryWarning
from engine.memory.graphs import EAGER_CALLS, Graphs, eager_because, peak_with_graphs
from engine.memory.plan import Plan, plan
from engine.methods import ddis
from engine.priors import Prior
from engine.runners.generate import generate
from engine.settings import Alignment, Sampling
from engine.types import ImageKey

LABELS = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Replayed:
    """A backend of the CPU. recorded: how often work was; replays: how often it was computed anew."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.warmed = self.recorded = self.replays = 0

    def warm_up(self, work: Callable[[], object]) -> None:
        self.warmed += 1
        work()

    def record(
        self, work: Callable[[], tuple[Tensor, ...]]
    ) -> tuple[tuple[Tensor, ...], Callable[[], None]]:
        if self.error is not None:
            raise self.error
        self.recorded += 1
        results = tuple(
            torch.full_like(result, torch.nan) for result in work()
        )  # a graph's hold no values yet

        def replay() -> None:
            self.replays += 1
            for kept, result in zip(results, work(), strict=True):
                kept.copy_(result)

        return results, replay


@pytest.fixture(scope="module")
def classifier(shared_resnet: CifarResNet) -> Classifier:
    return load_classifier(
        shared_resnet, labels=LABELS, preprocess=Preprocess.squash(16), device="cpu"
    )


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Replayed:
    """What records in runs, in place of CUDA."""
    found = Replayed()
    monkeypatch.setattr(ddis, "backend_of", lambda device: found)
    return found


def test_work_is_recorded_once_for_each_shape_after_it_ran_as_it_is() -> None:
    backend = Replayed()
    graphs, runs = Graphs(backend), []

    def work(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        runs.append(x)
        return x + y, x * y

    found = []
    for number in range(5):
        for size in (2, 3):
            x, y = torch.full((size,), float(number)), torch.arange(size).float()
            found.append((graphs.call("work", work, x, y), (x + y, x * y)))
        assert backend.recorded == (2 if number >= EAGER_CALLS else 0)
    assert (backend.warmed, backend.recorded, backend.replays) == (2, 2, 6)
    for results, expected in found:  # also those of calls before the last: they are copies
        assert all(map(torch.equal, results, expected))
    graphs.call("other", work, torch.zeros(2), torch.zeros(2))
    assert backend.recorded == 2


def test_released_graphs_are_gone_and_the_work_goes_on() -> None:
    backend = Replayed()
    graphs = Graphs(backend)
    for _ in range(4):
        graphs.call("work", lambda x: (x + 1,), torch.zeros(2))
    assert graphs.release()
    assert not graphs.release()
    assert torch.equal(
        graphs.call("work", lambda x: (x + 2,), torch.zeros(2))[0], torch.full((2,), 2.0)
    )
    assert backend.replays == 2


@pytest.mark.parametrize(
    "words",
    ["called a synchronizing CUDA operation", "operation not permitted when stream is capturing"],
)
def test_work_that_waits_for_the_device_is_an_error_that_names_the_switch(words: str) -> None:
    graphs, x = Graphs(Replayed(RuntimeError(words))), torch.zeros(1)
    for _ in range(EAGER_CALLS):
        graphs.call("guidance", lambda x: (x,), x)
    with pytest.raises(
        ModelError,
        match=r"guidance cannot be recorded as a CUDA graph .*, expected work that .*: run without `graphs`",
    ):
        graphs.call("guidance", lambda x: (x,), x)


def run(
    classifier: Classifier, prior: Prior, planned: Plan | str, **settings: object
) -> dict[ImageKey, Tensor]:
    samples = generate(
        classifier,
        prior,
        LABELS[:3],
        2,
        sampling=Sampling(steps=8, batch=3),
        seed=4,
        memory=planned,
        **settings,
    )
    return {sample.key: sample.image for sample in samples}


@pytest.fixture
def planned(small_prior: Prior, classifier: Classifier) -> Plan:
    on_cpu = plan(small_prior, classifier, "10GB", batch=3, tokens=False, full=False)
    return replace(on_cpu, eager_because="")


@pytest.mark.parametrize(
    "alignment", [Alignment(), Alignment.paper(), None], ids=["ours", "paper", "plain"]
)
def test_images_are_the_same_when_unet_and_guidance_are_replayed(
    small_prior: Prior,
    classifier: Classifier,
    planned: Plan,
    backend: Replayed,
    alignment: Alignment | None,
) -> None:
    """Two groups of other classes, prompts and noise, replayed from what the first one recorded."""
    if alignment is None:
        planned = replace(planned, decoder="none", decode_px=0)
    guided = {"method": "plain"} if alignment is None else {"alignment": alignment}
    eager = run(classifier, small_prior, planned, **guided, graphs=False)
    assert backend.recorded == 0
    found = run(classifier, small_prior, planned, **guided)
    assert backend.recorded == (1 if alignment is None else 2)
    assert backend.replays > 8
    assert found.keys() == eager.keys()
    assert all(torch.equal(found[key], eager[key]) for key in eager)


def test_memory_that_runs_out_while_recording_is_that_of_the_graphs(
    small_prior: Prior, classifier: Classifier, planned: Plan, backend: Replayed
) -> None:
    """The run goes on with batches as large as before."""
    eager = run(classifier, small_prior, planned, graphs=False)
    backend.error = torch.OutOfMemoryError("CUDA out of memory")
    with warnings.catch_warnings():
        warnings.simplefilter("error", MemoryWarning)
        found = run(classifier, small_prior, planned)
    assert backend.recorded == 0
    assert all(torch.equal(found[key], eager[key]) for key in eager)


def test_the_cpu_records_nothing(
    small_prior: Prior, classifier: Classifier, backend: Replayed
) -> None:
    assert plan(small_prior, classifier, "10GB", tokens=False, full=False).eager_because == (
        "they need a CUDA device"
    )
    run(classifier, small_prior, "10GB")
    assert backend.warmed == 0


@pytest.mark.parametrize(
    ("settings", "because"),
    [
        ({}, ""),
        ({"wanted": False}, "they are switched off"),
        ({"device": CPU}, "they need a CUDA device"),
        ({"learning": True}, "tokens are learned"),
        (
            {"micro_batch": {"sampling": 4, "guidance": 2}},
            "guidance goes in parts of 2 of 4 images",
        ),
        (
            {"micro_batch": {"sampling": 1, "guidance": 2}},
            "sampling goes in parts of 1 of 4 images",
        ),
        ({"checkpoint": ("guidance",)}, "guidance recomputes its decoder's activations"),
        ({"offload": ("text_encoder", "vae")}, "text_encoder and vae rest off the device"),
        ({"offload": ("transformer",)}, "transformer rests off the device"),
        ({"limit": 79}, "they would hold 30B while images are decoded"),
        ({"limit": 80}, ""),
    ],
    ids=str,
)
def test_why_nothing_is_recorded(settings: dict[str, object], because: str) -> None:
    usual = {
        "wanted": True,
        "device": CUDA,
        "learning": False,
        "batch": 4,
        "micro_batch": {"sampling": 4, "guidance": 4},
        "checkpoint": (),
        "offload": (),
        "held": 30,
        "peaks": {"text": 20, "sampling": 40, "guidance": 35, "decode": 50},
    }
    assert eager_because(**(usual | settings)).startswith(because)
    assert bool(eager_because(**(usual | settings))) == bool(because)


def test_a_plan_says_whether_graphs_are_used_and_what_they_hold(
    small_prior: Prior, classifier: Classifier
) -> None:
    settings = {"batch": 4, "device": "cuda", "tokens": False, "full": False}
    roomy = plan(small_prior, classifier, "10GB", **settings)
    assert (roomy.eager_because, roomy.channels_last) == ("", ())
    weights = roomy.peak_bytes["guidance"] - roomy.graph_bytes
    assert 0 < weights < roomy.peak_bytes["guidance"]
    assert roomy.generate_bytes == peak_with_graphs(roomy.peak_bytes, roomy.graph_bytes)
    assert roomy.generate_bytes == max(
        roomy.peak_bytes["guidance"], roomy.peak_bytes["decode"] + roomy.graph_bytes
    )
    off = plan(small_prior, classifier, "10GB", graphs=False, **settings)
    assert (off.eager_because, off.graph_bytes) == ("they are switched off", 0)
    tight = plan(small_prior, classifier, int(off.generate_bytes / 0.94), **settings)
    assert tight.eager_because.startswith("they would hold ")
    assert (tight.graph_bytes, tight.generate_bytes) == (0, off.generate_bytes)
