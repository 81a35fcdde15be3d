"""Plans carried out on a tiny prior: where parts are, which kernels run, and that images are the same."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0

from engine.classifiers import Classifier
from engine.errors import ConfigError, MissingExtraError
from engine.memory import apply, attention
from engine.memory.apply import applied, plan_of, settle
from engine.memory.attention import attending, chosen_attention
from engine.memory.plan import Plan, plan
from engine.memory.residence import resting_bytes
from engine.memory.skeleton import skeleton_prior
from engine.memory.subject import weights_bytes
from engine.priors import Prior
from engine.settings import Alignment, Sampling, TokenLearning

CPU = torch.device("cpu")


@pytest.fixture
def planned(small_prior: Prior, classifier: Classifier) -> Plan:
    return plan(small_prior, classifier, "10GB", batch=2, tokens=False, full=False)


def processors(prior: Prior) -> set[type]:
    networks = (prior.pipe.unet, prior.vae)
    return {
        type(part.processor)
        for n in networks
        for part in n.modules()
        if isinstance(part, Attention)
    }


@torch.no_grad()
def prediction(prior: Prior) -> torch.Tensor:
    z, context = (
        torch.randn(2, *prior.latent_shape(1)[1:]),
        prior.encode(["a dog", "a horse"], ""),
    )
    return prior.decode(prior.denoiser(context, 5.0)(z, prior.schedule(4)[1]).clean)


def test_attention_is_really_replaced_and_gives_the_same_images(small_prior: Prior) -> None:
    torch.manual_seed(3)
    fused = prediction(small_prior)
    assert processors(small_prior) == {AttnProcessor2_0}
    with attending([small_prior.pipe.unet, small_prior.vae], "vanilla", CPU):
        assert processors(small_prior) == {AttnProcessor}
        torch.manual_seed(3)
        whole = prediction(small_prior)
    assert processors(small_prior) == {AttnProcessor2_0}
    torch.testing.assert_close(whole, fused, atol=1e-5, rtol=0)
    assert not torch.equal(whole, fused)


def test_an_adapters_processor_stays(small_prior: Prior) -> None:
    class Adapter(AttnProcessor2_0):
        pass

    layer = next(part for part in small_prior.pipe.unet.modules() if isinstance(part, Attention))
    before = layer.processor
    layer.set_processor(Adapter())
    try:
        with attending([small_prior.pipe.unet], "vanilla", CPU):
            assert processors(small_prior) == {Adapter, AttnProcessor, AttnProcessor2_0}
    finally:
        layer.set_processor(before)


def test_xformers_needs_its_extra_and_a_gpu(small_prior: Prior) -> None:
    with (
        pytest.raises(ConfigError, match="xformers' on cpu, expected a CUDA device"),
        attending([], "xformers", CPU),
    ):
        pass
    with (
        pytest.raises(MissingExtraError, match=r"pip install 'ddis\[gpu\]'"),
        attending([], "xformers", torch.device("cuda")),
    ):
        pass


@pytest.mark.parametrize(
    ("installed", "has_kernel", "chosen"),
    [(True, True, "xformers"), (True, False, "sdpa"), (False, True, "sdpa")],
)
def test_auto_takes_xformers_on_cuda_where_it_is_installed_and_has_a_kernel(
    monkeypatch: pytest.MonkeyPatch, installed: bool, has_kernel: bool, chosen: str
) -> None:
    monkeypatch.setattr(attention, "runs", lambda *_: has_kernel)
    monkeypatch.setattr(attention, "find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert chosen_attention("auto", torch.device("cuda"), torch.float16) == chosen
    assert chosen_attention("auto", CPU, torch.float32) == "sdpa"
    assert chosen_attention("sdpa", torch.device("cuda"), torch.float16) == "sdpa"


@pytest.mark.parametrize("error", [None, NotImplementedError, RuntimeError, ValueError])
def test_a_backend_is_tried_once_and_draws_from_no_generator(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception] | None
) -> None:
    tried: list[torch.Tensor] = []

    class Watched(AttnProcessor2_0):
        def __call__(
            self, attn: Attention, hidden_states: torch.Tensor, **_: object
        ) -> torch.Tensor:
            tried.append(hidden_states)
            if error:
                raise error("no operator found")
            return hidden_states

    monkeypatch.setitem(attention.PROCESSORS, "watched", Watched)
    attention.runs.cache_clear()
    before = torch.get_rng_state()
    assert [attention.runs("watched", CPU, torch.bfloat16) for _ in range(2)] == [not error] * 2
    attention.runs.cache_clear()
    assert [tokens.dtype for tokens in tried] == [torch.bfloat16]
    assert torch.equal(torch.get_rng_state(), before)


def test_parts_are_on_the_device_in_their_phase_alone(
    small_prior: Prior, planned: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With main memory played by 'meta' there would be no way back, so two other dtypes stand for places."""
    places: list[tuple[str, str]] = []
    twin = skeleton_prior(small_prior)

    def note(name: str) -> object:
        return lambda place: places.append((name, str(place)))

    monkeypatch.setattr(twin.pipe.text_encoder, "to", note("text_encoder"), raising=False)
    monkeypatch.setattr(twin.vae, "to", note("vae"), raising=False)
    resting = replace(planned, offload=("text_encoder", "vae"), device="meta")
    with applied(resting, twin) as phase:
        assert places == [("text_encoder", "cpu"), ("vae", "cpu")]
        places.clear()
        with phase("text"):
            assert places == []  # it comes when it is called
            twin.encode(["a"])
            assert places == [("text_encoder", "meta"), ("text_encoder", "cpu")]
        places.clear()
        with phase("rows"):
            assert places == [("text_encoder", "meta")]  # and stays for the backward pass
        places.clear()
        with phase("sampling"):
            assert places == []
        with phase("decode"):
            assert places == [("vae", "meta")]
        places.clear()
    assert places == [("text_encoder", "meta"), ("vae", "meta")]


def test_networks_that_are_yet_to_come_take_memory_that_is_free(small_prior: Prior) -> None:
    assert resting_bytes(small_prior) == 0
    elsewhere = Prior(small_prior.pipe, "prior", mark="", device=torch.device("meta"))
    weights = [part.module for part in small_prior.components()]
    assert resting_bytes(elsewhere) == sum(weights_bytes(module, set()) for module in weights)


def test_networks_that_do_not_rest_are_brought_to_the_device(
    small_prior: Prior, planned: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    came: list[str] = []
    for part in small_prior.components():
        monkeypatch.setattr(
            part.module, "to", lambda *_, name=part.name: came.append(name), raising=False
        )
    settle(replace(planned, offload=("unet", "text_encoder")), small_prior)
    assert came == ["vae"]
    settle(None, small_prior)
    assert came == ["vae", "unet", "text_encoder", "vae"]


def test_token_learning_is_checkpointed_where_planned(small_prior: Prior, planned: Plan) -> None:
    def checkpointed() -> bool:
        return bool(
            small_prior.pipe.unet.is_gradient_checkpointing
            and small_prior.vae.is_gradient_checkpointing
        )

    for wanted in (("cat",), ()):
        with applied(replace(planned, checkpoint=wanted), small_prior) as phase, phase("cat"):
            assert checkpointed() == bool(wanted)
        assert not checkpointed()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dtype": "float16"}, "in float16 at 32 px on cpu with quantise 'none', exp"),
        ({"image_width_px": 64}, r"in float32 at 32 x 64 px \(height x width\) on cpu"),
    ],
)
def test_a_plan_of_another_prior_is_refused(
    small_prior: Prior, planned: Plan, change: dict[str, Any], said: str
) -> None:
    other = replace(planned, **change)
    with (
        pytest.raises(ConfigError, match=f"memory plan is for a prior {said}"),
        applied(other, small_prior),
    ):
        pass


def test_auto_counts_only_where_memory_may_be_short(
    small_prior: Prior, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(memory: object) -> Plan | None:
        return plan_of(memory, small_prior, classifier, 2, Alignment(), Sampling())

    assert of(None) is None
    assert of("auto") is None
    explicit = of("2GB")
    assert explicit is not None
    assert explicit.budget_bytes == 2 * 10**9
    assert of(explicit) is explicit
    monkeypatch.setattr(apply, "free_bytes", lambda device: 10**6)
    assert of("auto") is not None


def test_a_gpu_with_plenty_gets_a_plan_of_layout_and_graphs_without_counting(
    small_prior: Prior, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Prior, "device", property(lambda self: torch.device("cuda", 0)))
    monkeypatch.setattr(apply, "free_bytes", lambda device: 10**12)
    monkeypatch.setattr(apply, "plan", None)  # it would count
    monkeypatch.setattr(apply, "chosen_layouts", lambda *_: ("unet",))

    def of(**settings: object) -> Plan:
        found = plan_of("auto", small_prior, classifier, 3, Alignment(), Sampling(), **settings)
        assert found is not None
        return found

    planned = of()
    assert (planned.channels_last, planned.eager_because, planned.peak_bytes) == (("unet",), "", {})
    assert {planned.micro_batch[phase] for phase in ("text", "sampling", "guidance", "decode")} == {
        3
    }
    assert planned.generate_bytes == 0
    assert Plan.from_json(planned.to_json()) == planned
    assert of(graphs=False).eager_because == "they are switched off"
    learning = of(learning=TokenLearning())
    assert learning.eager_because == "tokens are learned, and gradients pass the denoiser"
    assert learning.micro_batch["cat"] == 3
