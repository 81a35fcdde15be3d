"""Each family of priors in counted memory, in replayed graphs and in ONNX Runtime: nothing knows a network by name."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.classifiers.cifar_resnet import CifarResNet
from engine.memory import apply as apply_module
from engine.memory.apply import applied
from engine.memory.case import Case
from engine.memory.graphs import EAGER_CALLS, Graphs, graphed_prior
from engine.memory.measure import measuring
from engine.memory.phases import PHASES, count_case, run_case
from engine.memory.plan import plan
from engine.memory.residence import bytes_on_device
from engine.memory.skeleton import skeleton_classifier, skeleton_prior
from engine.memory.subject import Subject
from engine.onnx.probe import probed
from engine.priors import Context, Prior
from engine.priors import resting as resting_module
from engine.runners.generate import generate
from engine.settings import Alignment, Sampling, TokenLearning
from tests.engine.priors.conftest import fitting_tiny

SHORT = Sampling(steps=2, batch=2)


@pytest.fixture(scope="session", params=["sd", "sdxl", "sd3"])
def family_name(request: pytest.FixtureRequest) -> str:
    """One family of each kind of network."""
    return request.param


@pytest.fixture(scope="session")
def prior(family_name: str, prior_of: Callable[..., Prior]) -> Prior:
    return prior_of(family_name)


@pytest.fixture
def classifier(tiny_resnet: CifarResNet) -> Classifier:
    return load_classifier(
        tiny_resnet, labels=list("abcdefg"), preprocess=Preprocess.squash(16), device="cpu"
    )


def subject(prior: Prior, classifier: Classifier, learning: TokenLearning | None) -> Subject:
    return Subject(
        prior=prior, classifier=classifier, alignment=Alignment(), cfg=4.0, learning=learning
    )


@pytest.mark.parametrize("learning", [None, TokenLearning()], ids=["paper", "ours"])
def test_what_a_phase_takes_is_counted_without_values(
    prior: Prior, classifier: Classifier, learning: TokenLearning | None
) -> None:
    real = subject(prior, classifier, learning)
    hollow = subject(skeleton_prior(prior), skeleton_classifier(classifier), learning)
    for phase in PHASES:
        case = Case(phase, 6, 3)
        run_case(real, case)  # layers are paired with activations once
        with measuring(prior.device) as measured:
            run_case(real, case)
        counted = count_case(hollow, case)
        assert counted.peak_bytes == pytest.approx(measured.peak_bytes, rel=0.1), phase
        assert counted.parts == 2


def test_text_encoders_rest_together_and_are_back_for_their_phase(
    prior: Prior, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"batch": 2, "device": "cuda", "tokens": False}
    roomy = plan(prior, classifier, "1GB", **settings)
    least = plan(prior, classifier, roomy.smallest_bytes, full=False, **settings)
    names = tuple(part.name for part in prior.components() if part.role == "text encoder")
    assert roomy.offload == ()
    assert set(names) <= set(least.offload)
    moved: list[str] = []
    on_cpu = plan(prior, classifier, "1GB", batch=2, tokens=False, full=False)
    resting = type(on_cpu).from_json(on_cpu.to_json() | {"offload": list(names)})
    for part in prior.components():
        monkeypatch.setattr(
            part.module, "to", lambda *_, name=part.name: moved.append(name), raising=False
        )
    with applied(resting, prior) as phase:
        moved.clear()
        with phase("sampling"):
            assert moved == []
        with phase("rows"):
            assert moved == list(names)
        moved.clear()
        with phase("text"):
            prior.encode(["a dog"])
            assert moved == [name for name in names for _ in ("comes", "leaves")]


AWAY = torch.device("cpu", 0)
"""Main memory under a name that differs from the device's, which is the CPU here."""


def gone_while_away(network: nn.Module) -> Callable[..., nn.Module]:
    """A stand-in for a network's `to` that fills its weights with NaN while it is AWAY."""
    kept: dict[str, Tensor] = {}

    def to(device: torch.device) -> nn.Module:
        with torch.no_grad():
            if device == AWAY and not kept:
                for name, value in network.named_parameters():
                    kept[name] = value.clone()
                    value.fill_(torch.nan)
            elif device != AWAY:
                for name, value in network.named_parameters():
                    value.copy_(kept.pop(name, value))
        return network

    return to


def test_a_run_whose_networks_all_rest_makes_the_same_images(
    prior: Prior, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that is used while it rests would fill them with NaN.

    And in the text phase a plan counts one text encoder at a time.
    """
    torch.manual_seed(0)
    seen_through = prior.replaced(tiny=fitting_tiny(prior.pipe))  # guidance's decoder never rests
    monkeypatch.setattr(resting_module, "REST", AWAY)
    monkeypatch.setattr(apply_module, "REST", AWAY)
    for part in prior.components():
        monkeypatch.setattr(part.module, "to", gone_while_away(part.module), raising=False)
    settings = {"batch": 2, "tokens": False, "full": False}
    planned = plan(seen_through, classifier, "1GB", **settings)
    names = [part.name for part in prior.components()]
    resting = type(planned).from_json(planned.to_json() | {"offload": names})
    made = [
        torch.stack(
            [
                one.image
                for one in generate(
                    classifier, seen_through, ["a"], 2, sampling=SHORT, memory=memory
                )
            ]
        )
        for memory in (planned, resting)
    ]
    assert made[0].equal(made[1])
    for part in prior.components():
        assert all(value.isfinite().all() for value in part.module.parameters())
    weights = {part.name: 100 + number for number, part in enumerate(prior.components())}
    roles = {part.name: part.role for part in prior.components()}
    encoders = [name for name, role in roles.items() if role == "text encoder"]
    most = max(weights[name] for name in encoders)
    assert bytes_on_device("text", weights, roles, tuple(names)) == most
    assert bytes_on_device("rows", weights, roles, tuple(names)) == sum(
        weights[name] for name in encoders
    )
    assert bytes_on_device("sampling", weights, roles, ()) == sum(weights.values())


class Replayed:
    """A backend of the CPU, which computes again where a GPU would replay. replays: how often."""

    replays = 0

    def warm_up(self, work: Callable[[], object]) -> None:
        work()

    def record(
        self, work: Callable[[], tuple[Tensor, ...]]
    ) -> tuple[tuple[Tensor, ...], Callable[[], None]]:
        results = tuple(torch.full_like(result, torch.nan) for result in work())

        def replay() -> None:
            self.replays += 1
            for kept, result in zip(results, work(), strict=True):
                kept.copy_(result)

        return results, replay


def contexts(prior: Prior) -> list[Context]:
    with torch.no_grad():
        return [prior.encode([text, "a cat"], "") for text in ("a dog", "a horse")]


def test_a_denoiser_is_replayed_with_all_that_it_is_called_with(prior: Prior) -> None:
    backend = Replayed()
    replayed = graphed_prior(prior, Graphs(backend))
    schedule, z = prior.schedule(4), torch.randn(prior.latent_shape(2))
    with torch.no_grad():
        for context in contexts(prior):
            for cfg in (1.0, 4.0):
                for step in schedule:
                    found = replayed.denoiser(context, cfg)(z, step).clean
                    assert torch.equal(found, prior.denoiser(context, cfg)(z, step).clean)
    assert backend.replays == 2 * (2 * len(schedule) - EAGER_CALLS)
    context = contexts(prior)[0]
    leaf = context.packed().requires_grad_()
    found = replayed.denoiser(context.with_packed(leaf), 1.0)(z, schedule[1]).clean
    assert torch.autograd.grad(found.sum(), leaf)[0].abs().max() > 0


def test_a_call_s_tensors_are_told_apart_by_whether_they_grow_with_the_batch(
    prior: Prior,
) -> None:
    call = probed(prior, 3)
    batched = {
        name: len(tensor)
        for name, tensor in zip(call.names, call.tensors, strict=True)
        if name in call.batched
    }
    assert {"latents", "context"} <= batched.keys() or "hidden_states" in batched
    assert set(batched.values()) == {3}
    assert len(set(call.names)) == len(call.names)
    args, kwargs = call.arguments(call.tensors)
    with torch.no_grad():
        assert prior.network(*args, **kwargs)[0].shape == prior.latent_shape(3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3"])
def test_onnx_runtime_denoises_and_decodes_as_torch_does(
    name: str, prior_of: Callable[..., Prior], tmp_path: Path, operator_table: None
) -> None:
    pytest.importorskip("onnxruntime")
    from engine.onnx.session import onnx_prior

    prior = prior_of(name)
    twin = onnx_prior(prior, tmp_path)
    z, context, step = torch.randn(prior.latent_shape(2)), contexts(prior)[0], prior.schedule(4)[1]
    with torch.no_grad():
        expected, found = (each.denoiser(context, 4.0)(z, step).clean for each in (prior, twin))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(twin.decode(z), prior.decode(z), rtol=0, atol=1e-4)
    assert not torch.equal(found, expected)
