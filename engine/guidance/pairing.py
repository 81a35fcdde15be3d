"""Which activation each BatchNorm layer of a network can be fused with, found by watching one pass.

No network's source is known or traced here. An activation is paired with a layer only where the pass shows that

- the layer alone computes act(scale x + shift), act often being nothing, on inputs that are made for this test;
- one operation in all reads its output, it is relu or silu, and nothing holds the output afterwards;
- so it is at every call of a layer that runs several times.

So the BatchNorm before a residual sum stands alone, as does one whose output is also kept or returned.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple
from weakref import ref

import torch
from ddis_kernels import bn_act_moments_reference, fold_batch_norm
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ACTIVATIONS: dict[Callable[..., Any], str] = {
    functional.relu: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    Tensor.relu: "relu",
    Tensor.relu_: "relu",
    functional.silu: "silu",
}
"""The calls that a fused layer can stand in for; activation modules make them too."""


class FusedLayer(NamedTuple):
    """A BatchNorm layer as one operator: act(scale x + shift). scale, shift: (C,).

    skip: whether it is the network that calls the activation, behind the layer; else the layer itself does, or nobody.
    """

    scale: Tensor
    shift: Tensor
    activation: str
    skip: bool


def pair(
    layers: Sequence[nn.Module], forward: Callable[[], object]
) -> dict[nn.Module, FusedLayer | None]:
    """How to fuse each BatchNorm layer of a frozen network, by one run of `forward`, which runs the network.

    None for a layer that `forward` does not run, or that does more than normalise: it can only be measured.
    """
    with torch.no_grad():
        outputs = _watch(layers, forward)
    # What is folded serves later passes, which may want gradients: no inference tensors.
    with torch.no_grad(), torch.inference_mode(False):
        return {layer: _fused(layer, outputs.get(layer, [])) for layer in layers}


@contextmanager
def replaced_forwards(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Let modules run other functions inside the block. Their hooks run as ever."""
    before = {module: vars(module).get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            vars(module)["forward"] = forward  # as setattr does, at a tenth of its cost
        yield
    finally:
        for module, old in before.items():
            if old is None:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = old


class _Output:
    """One output of a layer, and what the pass did with it."""

    def __init__(self, dim: int, y: Tensor) -> None:
        self.dim, self.tensor = dim, ref(y)
        self.reads = 0
        self.activation = "none"
        self.in_place = False
        self.kept = False

    @property
    def pairs_with(self) -> str:
        return "none" if self.reads != 1 or self.kept else self.activation


class _Calls(TorchFunctionMode):
    """Notes by which of the network's own calls an output is activated."""

    def __init__(self, watched: dict[int, _Output]) -> None:
        super().__init__()
        self.watched = watched

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in ACTIVATIONS and args:
            output = self.watched.get(id(args[0]))
            if output is not None and output.tensor() is args[0]:
                output.activation, output.in_place = ACTIVATIONS[func], result is args[0]
        return result


class _Reads(TorchDispatchMode):
    """Counts all operations that read an output, whoever calls them, until it is overwritten with its activation."""

    def __init__(self, watched: dict[int, _Output]) -> None:
        super().__init__()
        self.watched = watched

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        for value in tree_leaves((args, kwargs)):
            output = self.watched.get(id(value))
            if output is not None and output.tensor() is value and not output.in_place:
                output.reads += 1
        return func(*args, **(kwargs or {}))


def _watch(
    layers: Sequence[nn.Module], forward: Callable[[], object]
) -> dict[nn.Module, list[_Output]]:
    """The outputs of each layer in one pass; none of a layer that was not always called as y = layer(x).

    y must be a new tensor in the shape of x.
    """
    outputs: dict[nn.Module, list[_Output]] = {}
    watched: dict[int, _Output] = {}
    odd: set[nn.Module] = set()

    def watching(layer: nn.Module, original: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            y = original(*args, **kwargs)
            plain = len(args) == 1 and not kwargs and isinstance(y, Tensor)
            if plain and y.shape == args[0].shape and y is not args[0]:
                watched[id(y)] = _Output(y.dim(), y)
                outputs.setdefault(layer, []).append(watched[id(y)])
            else:
                odd.add(layer)
            return y

        return run

    with replaced_forwards({layer: watching(layer, layer.forward) for layer in layers}):
        with _Calls(watched), _Reads(watched):
            result = forward()
        for output in (output for of_layer in outputs.values() for output in of_layer):
            output.kept = output.tensor() is not None and not output.in_place
        del result  # until here: what the network returns is kept
    return {layer: found for layer, found in outputs.items() if layer not in odd}


def _fused(layer: nn.Module, outputs: Sequence[_Output]) -> FusedLayer | None:
    if not outputs or "forward" in vars(layer) or not hasattr(layer, "eps"):
        return None  # it never runs, another library has wrapped it, or it is of an unknown kind
    own = _own_activation(layer, outputs[0].dim)
    if own is None:
        return None
    behind = {output.pairs_with for output in outputs}
    skip = own == "none" and len(behind) == 1 and behind != {"none"}
    return FusedLayer(*fold_batch_norm(layer), behind.pop() if skip else own, skip)


def _own_activation(layer: nn.Module, dim: int) -> str | None:
    """The activation that a layer itself ends with, often none; None if act(scale x + shift) is not all it computes.

    Its float64 copy gets inputs of `dim` axes that put scale x + shift at points from -4 to 4, where the activations
    that are known here, and others such as GELU or a leaky ReLU, are well apart.
    """
    copy = _with_values(deepcopy(layer).double())
    scale, shift = fold_batch_norm(copy)
    points = torch.linspace(-4, 4, 17, dtype=scale.dtype, device=scale.device)[:, None]
    x = torch.where(scale == 0, 0.0, (points - shift) / scale).reshape(17, -1, *[1] * (dim - 2))
    y = copy.forward(x)
    for name in dict.fromkeys(["none", *ACTIVATIONS.values()]):
        expected = bn_act_moments_reference(x, scale, shift, name).y
        if (
            isinstance(y, Tensor)
            and y.shape == x.shape
            and torch.allclose(y, expected, rtol=0, atol=1e-4)
        ):
            return name
    return None


def _with_values(layer: nn.Module) -> nn.Module:
    """The layer itself; one on 'meta', which has no values, on the CPU as if it were new."""
    if not next(layer.buffers()).is_meta:
        return layer
    layer = layer.to_empty(device="cpu")
    for name, value in (*layer.named_parameters(), *layer.named_buffers()):
        with torch.no_grad():
            value.fill_(1.0 if name in ("weight", "running_var") else 0.0)
    return layer
