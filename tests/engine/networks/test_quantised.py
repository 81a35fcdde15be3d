"""Linear layers in 4 and 8 bits: their products, gradients, sizes, and what casts and moves leave of them."""

import copy
import sys

import pytest
import torch
from torch import nn

from engine.errors import ConfigError, MissingExtraError
from engine.memory.skeleton import skeleton
from engine.memory.subject import weights_bytes
from engine.networks.frozen import freeze
from engine.networks.quantised import KINDS, Linear4bit, Linear8bit, bytes_of, quantise


class Network(nn.Module):
    """Two layers that are worth it, one that is wanted in float32, and one that is small."""

    _keep_in_fp32_modules = ("precise",)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 48)
        self.inner = nn.Sequential(nn.GELU(), nn.Linear(48, 64, bias=False))
        self.precise = nn.Linear(64, 64)
        self.small = nn.Linear(64, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.small(self.precise(self.inner(self.first(x))))


@pytest.fixture
def network() -> Network:
    made = Network()
    freeze(made)
    return made


@pytest.mark.parametrize(("kind", "error"), [("nf4", 0.2), ("int8", 0.02)])
def test_products_and_gradients_are_near_those_of_the_weights(
    network: Network, kind: str, error: float
) -> None:
    x = torch.randn(5, 7, 64, requires_grad=True)
    exact = network(x)
    (expected,) = torch.autograd.grad(exact.square().sum(), x)
    twin = copy.deepcopy(network)
    quantise(twin, kind)
    assert [type(twin.first), type(twin.inner[1])] == [KINDS[kind]] * 2
    assert type(twin.precise) is type(twin.small) is nn.Linear
    found = twin(x)
    (gradient,) = torch.autograd.grad(found.square().sum(), x)
    assert 0 < (found - exact).norm() / exact.norm() < error
    assert 0 < (gradient - expected).norm() / expected.norm() < 2 * error


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_the_assembled_weight(network: Network, kind: str) -> None:
    quantise(network, kind)
    layer = network.first
    x = torch.randn(3, 64, requires_grad=True)
    out = torch.randn(3, 48)
    (gradient,) = torch.autograd.grad(layer(x), x, out)
    assert gradient.equal(out @ layer.assembled())
    assert layer(x).equal(nn.functional.linear(x, layer.assembled(), layer.bias))


def test_int8_rounds_each_weight_to_the_nearest_of_its_rows_levels(network: Network) -> None:
    weight = network.first.weight.detach().clone()
    weight[0] = 0
    network.first.weight.data.copy_(weight)
    layer = Linear8bit(network.first)
    step = weight.abs().amax(1, keepdim=True) / 127
    assert ((layer.assembled() - weight).abs() <= step * 0.501).all()
    assert layer.assembled()[0].eq(0).all()


@pytest.mark.parametrize(("kind", "bits"), [("nf4", 4.5), ("int8", 8)])
def test_a_layer_has_its_size_with_and_without_values(kind: str, bits: float) -> None:
    network = freeze(nn.Sequential(nn.Linear(256, 128, bias=False, dtype=torch.bfloat16)))
    hollow = skeleton(network)
    quantise(network, kind)
    quantise(hollow, kind)
    expected = 256 * 128 * bits / 8 + (128 * 4 if kind == "int8" else 0)
    assert weights_bytes(network, set()) == weights_bytes(hollow, set()) == expected
    x = torch.empty(3, 256, device="meta")
    assert skeleton(network)(x).shape == hollow(x).shape == (3, 128)


@pytest.mark.parametrize("now", ["none", *KINDS])
def test_the_size_in_each_precision_is_known_in_any(network: Network, now: str) -> None:
    expected = {"none": weights_bytes(network, set())}
    for kind in KINDS:
        twin = copy.deepcopy(network)
        quantise(twin, kind)
        expected[kind] = weights_bytes(twin, set())
    if now != "none":
        quantise(network, now)
    assert {kind: bytes_of(network, kind) for kind in expected} == expected
    assert expected["nf4"] < expected["int8"] < expected["none"]


def test_a_weight_that_an_embedding_shares_is_kept_once() -> None:
    network = nn.ModuleDict(
        {"words": nn.Embedding(50, 64), "first": nn.Linear(64, 64), "head": nn.Linear(64, 50)}
    )
    network["head"].weight = network["words"].weight
    quantise(freeze(network), "nf4")
    assert isinstance(network["first"], Linear4bit)
    assert type(network["head"]) is nn.Linear
    assert bytes_of(network, "nf4") == weights_bytes(network, set())


@pytest.mark.parametrize("kind", KINDS)
def test_casts_and_copies_change_no_value(network: Network, kind: str) -> None:
    quantise(network, kind)
    before = network.first.assembled()
    twin = copy.deepcopy(network).to(torch.float16).to("cpu").float()
    assert twin.first.assembled().equal(before)
    assert network.first.weight.shape == (48, 64)
    assert network.first.weight.dtype == torch.float32
    half = Network().to(torch.bfloat16)
    quantise(half, kind)
    assert half.first(torch.randn(2, 64)).dtype == torch.float32
    assert half.first(torch.randn(2, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert half.first.assembled().dtype == half.first.weight.dtype == torch.bfloat16


def test_what_cannot_be_quantised_is_said(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="quantise is 'fp3', expected one of 'none', 'nf4'"):
        quantise(network, "fp3")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match=r"'ddis\[gpu\]'.*or choose 'int8'"):
        quantise(network, "nf4")
    quantise(network, "int8")
    assert not isinstance(network.first, Linear4bit)
