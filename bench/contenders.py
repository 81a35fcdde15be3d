"""What the kernels are compared with: each form of the same work, as a function of one feature map.

`hook` is how public implementations of DeepInversion's loss measure a layer; `update_stats` is the fastest that eager
torch offers, without autograd; `inductor` is torch.compile's best of the same formula; `limit` reads (and writes) the
same bytes with the same threads and does nothing else.
"""

from collections.abc import Callable

import torch
from ddis_kernels import _backend, bn_act_moments, channel_moments
from torch import Tensor
from torch.nn.functional import batch_norm

Run = Callable[[], object]

# channels and side of every BatchNorm input at 224 px
SHAPES = {
    "ResNet-18/34": [(64, 112), (64, 56), (128, 28), (256, 14), (512, 7)],
    "ResNet-50": [(256, 56), (128, 56), (512, 28), (256, 28), (1024, 14), (512, 14), (2048, 7)],
    "VGG-16-BN": [(64, 224), (128, 112)],
    "MobileNetV2": [
        (32, 112),
        (16, 112),
        (96, 112),
        (96, 56),
        (24, 56),
        (144, 56),
        (144, 28),
        (32, 28),
        (192, 28),
        (192, 14),
        (64, 14),
        (384, 14),
        (96, 14),
        (576, 14),
        (576, 7),
        (160, 7),
        (960, 7),
        (320, 7),
        (1280, 7),
    ],
}
"""A shape stands under the first network that has it."""


def hook_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.mean([0, 2, 3])
    var = x.permute(1, 0, 2, 3).contiguous().view(x.shape[1], -1).var(1, unbiased=False)
    return mean, var


def var_mean(x: Tensor) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    return mean, var


def two_pass(x: Tensor) -> tuple[Tensor, Tensor]:
    """The form that inductor fuses best."""
    mean = x.mean((0, 2, 3))
    return mean, (x - mean.view(1, -1, 1, 1)).square().mean((0, 2, 3))


def read_limit(x: Tensor) -> Run:
    if x.device.type == "cpu" and _backend.cpu is not None:
        return lambda: _backend.cpu.plain_read(x, torch.get_num_threads())
    return lambda: x.sum()


def moments_contenders(x: Tensor, with_inductor: bool) -> dict[str, Run]:
    """Mean and variance of x: (N, C, H, W), forward."""
    runs: dict[str, Run] = {
        "ours": lambda: channel_moments(x),
        "hook": lambda: hook_moments(x),
        "var_mean": lambda: var_mean(x),
        "update_stats": lambda: torch.batch_norm_update_stats(x, None, None, 0.1),
        "limit": read_limit(x),
    }
    if with_inductor:
        torch.compiler.reset()  # else a third shape counts as one recompilation too many
        forms = [
            torch.compile(form, fullgraph=True, dynamic=False) for form in (two_pass, var_mean)
        ]
        runs["inductor two_pass"], runs["inductor var_mean"] = (
            lambda f=form: f(x) for form in forms
        )
    return runs


def layer_contenders(x: Tensor, activation: str, with_inductor: bool) -> dict[str, Run]:
    """Eval BatchNorm (+ ReLU) of x, the moments of x, and the gradient of both with respect to x."""
    channels = x.shape[1]
    with torch.random.fork_rng():
        mean, weight, bias = (torch.randn(channels, device=x.device) for _ in range(3))
        var = torch.rand(channels, device=x.device) + 0.5
        gy = torch.randn_like(x)
        dmean, dvar = (torch.randn(channels, device=x.device) for _ in range(2))
    scale = weight * (var + 1e-5).rsqrt()
    shift = bias - mean * scale
    leaf = x.detach().requires_grad_()

    def layer(v: Tensor) -> Tensor:
        y = batch_norm(
            v,
            mean.to(v.dtype),
            var.to(v.dtype),
            weight.to(v.dtype),
            bias.to(v.dtype),
            False,
            0.0,
            1e-5,
        )
        return y.relu() if activation == "relu" else y

    def with_moments(measure) -> Run:
        def step(v: Tensor) -> Tensor:
            m, s = measure(v)
            return torch.autograd.grad(
                (layer(v), m, s), v, (gy, dmean.to(m.dtype), dvar.to(s.dtype))
            )[0]

        return step

    def fused() -> Tensor:
        out = bn_act_moments(leaf, scale, shift, activation)
        return torch.autograd.grad(tuple(out), leaf, (gy, dmean, dvar))[0]

    def copies() -> None:
        torch.empty_like(x).copy_(x)
        torch.add(x, gy)

    runs: dict[str, Run] = {
        "ours": fused,
        "plain": lambda: torch.autograd.grad(layer(leaf), leaf, gy)[0],
        "hook": lambda: with_moments(hook_moments)(leaf),
        "limit": copies,
    }
    if with_inductor:
        torch.compiler.reset()
        for name, form in (("two_pass", two_pass), ("var_mean", var_mean)):
            forward = torch.compile(
                lambda v, f=form: (layer(v), *f(v)), fullgraph=True, dynamic=False
            )

            def run(forward=forward) -> Tensor:
                outputs = forward(leaf)
                weights = (gy, dmean.to(outputs[1].dtype), dvar.to(outputs[2].dtype))
                return torch.autograd.grad(outputs, leaf, weights)[0]

            runs[f"inductor {name}"] = run
    return runs
