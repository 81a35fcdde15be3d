"""Counting of live bytes, FLOPs and operators."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from engine.memory import count as count_module
from engine.memory.count import Count, counting

KB = 1024
DEVICES = ["cpu", "meta"]


def floats(kilobytes: int, device: str, **options: object) -> torch.Tensor:
    return torch.ones(kilobytes * KB // 4, device=device, **options)


@pytest.mark.parametrize("device", DEVICES)
def test_a_storage_counts_while_something_holds_it(device: str) -> None:
    weight = floats(64, device)
    with counting() as count:
        a = weight + 1
        assert count.live == 64 * KB  # not the weight
        b = a.view(2, -1)[0]
        assert count.live == 64 * KB  # a view shares it
        a.mul_(2)
        assert count.live == 64 * KB
        del a
        assert count.live == 64 * KB  # b still holds all of it
        del b
        assert count.live == 0
        c = weight.view(-1, 2).T.contiguous()
        d = c + c
        assert count.live == count.peak == 128 * KB
    del c, d
    assert count.live == 0


@pytest.mark.parametrize("device", DEVICES)
def test_what_a_graph_saves_is_alive_until_backward(device: str) -> None:
    x = floats(64, device, requires_grad=True)
    with counting() as count:
        y = x.exp().sin().sum()  # exp keeps its result, sin its input: the same storage
        assert count.live == 64 * KB + 4
        (grad,) = torch.autograd.grad(y, x)
        assert count.live == 64 * KB + 4  # the gradient in place of what was saved
        del y, grad
    assert count.live == 0


def chain(device: str) -> nn.Sequential:
    """Four blocks of four layers; a layer saves what its activation reads."""
    layers = ((nn.Linear(64, 64), nn.GELU()) for _ in range(16))
    blocks = [nn.Sequential(*(part for _ in range(4) for part in next(layers))) for _ in range(4)]
    return nn.Sequential(*blocks).to(device)


def gradient_count(device: str, with_checkpoints: bool) -> Count:
    network, x = (
        chain(device).requires_grad_(False),
        torch.zeros(256, 64, device=device, requires_grad=True),
    )
    with counting() as count:
        y = x
        for block in network:
            y = checkpoint(block, y, use_reentrant=False) if with_checkpoints else block(y)
        torch.autograd.grad(y.sum(), x)
    return count


@pytest.mark.parametrize("device", DEVICES)
def test_checkpointing_takes_less_memory_and_more_flops(device: str) -> None:
    plain, saved = gradient_count(device, False), gradient_count(device, True)
    assert saved.peak < 0.9 * plain.peak
    assert saved.flops == 1.5 * plain.flops  # forward twice, and the gradient by the input


def test_meta_counts_what_real_tensors_count() -> None:
    for with_checkpoints in (False, True):
        real, meta = (gradient_count(device, with_checkpoints) for device in ("cpu", "meta"))
        assert (real.peak, real.flops) == (meta.peak, meta.flops)


def test_counts_do_not_depend_on_what_was_counted_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """On 'meta' results are remembered by what they depend on: strides, dtypes, and numbers with their types."""

    def work(device: str) -> list[object]:
        x, half = floats(64, device).view(64, 16, 16), floats(64, device).half().view(64, 16, 16)
        with counting() as count:
            made = [
                x * 2,
                x * 2.0,
                half * 2,
                half + x,
                x.transpose(1, 2) * 2,
                x.to(torch.int32) * True,
            ]
            made += [x.sum((1, 2)), x.sum((1, 2), keepdim=True), *x.max(1), x.add_(1), x[1:]]
            made += [torch.ops.aten._unsafe_view(x, (128, 128))]  # shares x's storage
        made += functional.scaled_dot_product_attention(x[None], x[None], x[None])
        facts = [(y.shape, y.stride(), y.dtype, y.device.type == device) for y in made]
        return [count.peak, count.live, count.flops, facts]

    monkeypatch.setattr(count_module, "_results", {})
    first = work("meta")
    assert len(count_module._results) >= 10
    assert work("meta") == first == work("cpu")


def attention_count(device: str) -> Count:
    q = torch.zeros(2, 4, 96, 16, device=device, requires_grad=True)
    with counting() as count:
        torch.autograd.grad(functional.scaled_dot_product_attention(q, q, q).sum(), q)
    return count


def test_attention_on_meta_is_the_fused_kernel() -> None:
    real, meta = attention_count("cpu"), attention_count("meta")
    assert real.peak == meta.peak
    assert real.flops == meta.flops > 0


def test_flops_are_those_of_torchs_own_counter() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.Flatten(), nn.Linear(288, 5)
    )
    x = torch.zeros(2, 3, 16, 16, requires_grad=True)

    def work() -> None:
        network(x).sum().backward()

    with FlopCounterMode(display=False) as theirs:
        work()
    with counting() as ours:
        work()
    assert ours.flops == theirs.get_total_flops() > 0
