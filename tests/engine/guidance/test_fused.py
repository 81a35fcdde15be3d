"""A fused network computes what it did before, and its moments, loss and gradient are those of the hooks."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ddis_kernels import AlignmentTarget, use_backend
from torch import Tensor, nn

from engine.classifiers import Preprocess
from engine.classifiers.statistics import Examined, Statistics
from engine.classifiers.statistics.batch_norm import batch_norm, is_batch_norm
from engine.errors import ModelError
from engine.guidance.domain import Domain, moment_distance
from engine.guidance.fused import fused_moments, is_watched
from engine.guidance.moments import recording_moments
from engine.guidance.pairing import pair
from engine.types import Moments

SETTINGS = [("l2", False, None), ("l2_squared", False, (0.3, 1.7)), ("l2", True, (0.3, 1.7))]


def tensor_of(output: Any) -> Tensor:
    return getattr(output, "logits", output)


def statistics_of(network: nn.Module) -> Statistics:
    blank = torch.zeros(2, 3, 8, 8).to(next(network.buffers()).dtype)
    return batch_norm(Examined(network, lambda: network(blank), Preprocess.squash(8)))


def by_hooks(network, x, stored, weights, norm, per_image) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, output, gradient of loss and output) of the reference."""
    leaf = x.clone().requires_grad_()
    with recording_moments(statistics_of(network).taps, per_image) as measured:
        output = tensor_of(network(leaf))
        loss = moment_distance(measured, stored, weights, norm)
    return (
        loss.detach(),
        output.detach(),
        torch.autograd.grad(loss.sum() + output.sin().sum(), leaf)[0],
    )


def by_fusion(network, x, stored, weights, norm, per_image) -> tuple[Tensor, Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    known = replace(statistics_of(network), stored=tuple(stored))
    target = AlignmentTarget.of(stored, weights, norm)
    with Domain(network, known, target, per_image).watched() as loss_of:
        output = tensor_of(network(leaf))
        loss = loss_of()
        return (
            loss.detach(),
            output.detach(),
            torch.autograd.grad(loss.sum() + output.sin().sum(), leaf)[0],
        )


def assert_as_by_hooks(
    network: nn.Module,
    dtype: torch.dtype,
    norm: str,
    per_image: bool,
    weight: Any,
    **tolerance: float,
):
    network.to(dtype)
    x = torch.randn(3, 3, 8, 8, dtype=dtype)
    stored = [Moments(*(v.to(dtype) for v in kept)) for kept in statistics_of(network).stored]
    arguments = x, stored, weight and [weight] * len(stored), norm, per_image
    for got, expected in zip(
        by_fusion(network, *arguments), by_hooks(network, *arguments), strict=True
    ):
        torch.testing.assert_close(got, expected, **tolerance)


@pytest.mark.parametrize(("norm", "per_image", "weight"), SETTINGS)
def test_value_and_gradient_are_those_of_the_hooks(
    network_and_pairs, norm, per_image, weight
) -> None:
    assert_as_by_hooks(
        network_and_pairs[0], torch.float64, norm, per_image, weight, rtol=1e-10, atol=1e-10
    )


def test_in_float32_the_kernels_agree_with_the_hooks(network_and_pairs) -> None:
    assert_as_by_hooks(network_and_pairs[0], torch.float32, "l2", False, None, rtol=2e-4, atol=2e-5)


def test_a_network_is_watched_in_its_first_pass_and_again_when_its_weights_are_others() -> None:
    network = (
        nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.ReLU()).eval().requires_grad_(False)
    )
    for _ in range(2):
        assert not is_watched(network)
        with fused_moments(network):
            network(torch.rand(1, 3, 4, 4))
        assert is_watched(network)
        network[1].running_mean.add_(1)


def test_activations_are_fused_where_they_belong(network_and_pairs) -> None:
    network, expected = network_and_pairs
    layers = [tap.layer for tap in statistics_of(network).taps]
    found = pair(layers, lambda: network(torch.randn(2, 3, 8, 8)))
    assert [how.activation if (how := found[layer]) else "measured" for layer in layers] == expected


def test_an_activation_module_is_skipped_not_repeated(build) -> None:
    """Else a second SiLU would show only as a slower, not as a wrong ReLU."""
    network, ran = build("relu"), []
    network[2].register_forward_hook(lambda module, inputs, output: ran.append(output is inputs[0]))
    with fused_moments(network):
        network(torch.randn(2, 3, 8, 8))
    assert ran == [False, True]  # watched, then fused


def test_the_network_is_restored_also_after_an_error(network_and_pairs) -> None:
    network, x = network_and_pairs[0], torch.randn(2, 3, 8, 8)
    before = {module: dict(vars(module)) for module in network.modules()}
    plain = tensor_of(network(x))
    with fused_moments(network) as measured:
        network(x)
        assert measured
    assert not measured
    with pytest.raises(ZeroDivisionError), fused_moments(network):  # noqa: PT012
        network(x)
        raise ZeroDivisionError
    for module, attributes in before.items():
        assert "forward" not in vars(module)
        assert vars(module).keys() == attributes.keys()
    assert torch.equal(tensor_of(network(x)), plain)


def test_an_error_within_the_network_leaves_the_next_pass_right(calls) -> None:
    fail = [False]

    def use(net: nn.Module, x: Tensor) -> Tensor:
        y = net.bn(x)
        if fail[0]:
            raise ZeroDivisionError
        return F.silu(y)

    network, x = calls(use), torch.randn(2, 3, 8, 8)
    plain = network(x)
    with fused_moments(network) as measured:
        network(x)
        fail[0] = True
        with pytest.raises(ZeroDivisionError):
            network(x)
        fail[0] = False
        torch.testing.assert_close(network(x), plain)
        assert len(measured) == 1


def test_blocks_may_be_nested_and_entered_again(build) -> None:
    network, x = build("residual"), torch.randn(2, 3, 8, 8)
    plain = network(x)
    for _ in range(2):
        with fused_moments(network) as outer:
            network(x)
            with fused_moments(network, per_image=True) as inner:
                torch.testing.assert_close(network(x), plain)
                assert inner[0].mean.shape == (2, 3)
            torch.testing.assert_close(network(x), plain)
            assert [m.mean.shape for m in outer] == [(3,), (3,)]
    assert "forward" not in vars(network)


def test_the_moments_are_those_of_the_latest_pass(build) -> None:
    network, x = build("residual"), torch.randn(4, 3, 8, 8)
    with fused_moments(network) as measured:
        network(x)
        network(x[:2])
        latest = list(measured)
        network(x[:2])
        assert all(torch.equal(a.var, b.var) for a, b in zip(latest, measured, strict=True))


def test_one_pass_is_watched_for_all_blocks_until_the_weights_change(build) -> None:
    network, x, passes = build("relu"), torch.randn(2, 3, 8, 8), []
    network[0].register_forward_hook(lambda *_: passes.append(1))
    for _ in range(3):
        with fused_moments(network):
            network(x)
            network(x)
    assert len(passes) == 1 + 6
    with torch.no_grad():
        network[1].weight.mul_(2)
    plain = network(x)
    with fused_moments(network):
        torch.testing.assert_close(network(x), plain)


def test_a_forgotten_network_takes_its_plan_along(build) -> None:
    network = build("relu")
    with fused_moments(network):
        network(torch.randn(2, 3, 8, 8))
    alive = weakref.ref(network)
    del network
    gc.collect()
    assert alive() is None


def test_another_path_through_the_code_is_an_error_once(calls) -> None:
    activate = [True]
    network = calls(lambda net, x: F.silu(net.bn(x)) if activate[0] else net.bn(x).tanh())
    x = torch.randn(2, 3, 8, 8)
    with fused_moments(network):
        network(x)
        activate[0] = False
        with pytest.raises(
            ModelError, match=r"1 BatchNorm outputs .* expected the same path .* recording_moments"
        ):
            network(x)
    plain = network(x)
    with fused_moments(network):
        torch.testing.assert_close(network(x), plain)


def test_a_network_in_training_mode_is_refused(build) -> None:
    network = build("relu").train()
    with (
        pytest.raises(ModelError, match=r"training mode, expected evaluation mode.* Call its eval"),
        fused_moments(network),
    ):
        pass


def test_a_network_without_stored_moments_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    with pytest.raises(ModelError, match="without running statistics"), fused_moments(network):
        pass


def test_a_second_block_needs_a_pass_in_the_first(build) -> None:
    """It would watch the first one's stand-ins, and leave them in the network."""
    network = build("relu")
    with (
        fused_moments(network),
        pytest.raises(ModelError, match="another block that no pass has run in yet"),
        fused_moments(network),
    ):
        pass
    assert not any("forward" in vars(layer) for layer in network.modules())
    with fused_moments(network):
        pass


def test_a_first_pass_in_inference_mode_serves_later_gradients(build) -> None:
    network, x = build("relu"), torch.randn(2, 3, 8, 8)
    with torch.inference_mode(), fused_moments(network):
        network(x)
    leaf = x.clone().requires_grad_()
    (plain,) = torch.autograd.grad(network(leaf).sum(), leaf)
    with fused_moments(network):
        (found,) = torch.autograd.grad(network(leaf).sum(), leaf)
    torch.testing.assert_close(found, plain)


def test_another_eps_is_folded_anew(build) -> None:
    network, x = build("relu"), torch.randn(2, 3, 8, 8)
    with fused_moments(network):
        network(x)
    for layer in network.modules():
        if is_batch_norm(layer):
            layer.eps = 0.5
    plain = network(x)
    with fused_moments(network):
        torch.testing.assert_close(network(x), plain)


def test_hooks_of_others_run_and_see_what_they_did(build) -> None:
    """A hook that reads a layer's output keeps the activation from being fused with it."""
    network, seen = build("silu"), []
    network[1].register_forward_hook(lambda layer, inputs, output: seen.append(output.sum()))
    x = torch.randn(2, 3, 8, 8)
    network(x)
    with fused_moments(network):
        network(x)
    torch.testing.assert_close(seen[-1], seen[0])


@pytest.mark.parametrize("name", ["relu", "silu", "cifar", "transformers"])
def test_a_pass_keeps_nothing_beyond_what_the_plain_network_keeps(build, name) -> None:
    """One tensor a layer, its input, in the activations' dtype and none of it twice."""
    network, x = build(name), torch.randn(4, 3, 8, 8)

    def kept(run: Callable[[], object]) -> dict[int, Tensor]:
        """Saved tensors by the memory that they lie in."""
        tensors: list[Tensor] = []

        def keep(tensor: Tensor) -> Tensor:
            tensors.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            run()
        constants = {
            t.untyped_storage().data_ptr() for t in (*network.parameters(), *network.buffers())
        }
        return {
            t.untyped_storage().data_ptr(): t
            for t in tensors
            if t.dim() == 4
            and t.is_floating_point()
            and t.untyped_storage().data_ptr() not in constants
        }

    inputs: list[Tensor] = []
    for layer in network.modules():
        if is_batch_norm(layer):
            layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    leaf = x.clone().requires_grad_()
    plain = kept(lambda: network(leaf))
    with fused_moments(network):
        network(x)
        inputs.clear()
        fused = kept(lambda: network(leaf))
    assert {t.data_ptr() for t in inputs} <= fused.keys()
    assert {t.dtype for t in fused.values()} == {torch.float32}
    assert len(fused) <= len(plain)
    assert sum(t.nbytes for t in fused.values()) <= sum(t.nbytes for t in plain.values())


def test_half_precision_and_channels_last(build) -> None:
    network = build("residual")
    x = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    plain = network(x)
    with fused_moments(network) as measured:
        y = network.to(torch.bfloat16)(x.bfloat16())
        assert y.dtype == torch.bfloat16
        assert measured[0].mean.dtype == torch.float32
    torch.testing.assert_close(y.float(), plain, rtol=0.1, atol=0.1)


def test_it_runs_on_the_reference_backend_too(build) -> None:
    network, x = build("residual"), torch.randn(2, 3, 8, 8)
    with use_backend("reference"), fused_moments(network) as measured:
        network(x)
        plain = [Moments(m.mean.clone(), m.var.clone()) for m in measured]
    with fused_moments(network) as measured:
        network(x)
        torch.testing.assert_close(plain, list(measured))
