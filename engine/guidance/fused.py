"""Measure by fusion: BatchNorm layers that measure what they normalise add no pass over any activation.

Inside the block a BatchNorm layer, with the ReLU or SiLU behind it, is one operator (`ddis_kernels.bn_act_moments`);
outside it the network is as it was. Which activation belongs to which layer is watched once (`pairing`), before the
first pass. In a pass the operator does the activation, and when the network then asks for it, it gets its input back; a
pass that does not ask, because it took another path through its code, ends in an error. What is not noticed: a later
path that asks, and next to it reads the BatchNorm's own output, gets the activated one for both.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakSet

import torch
from ddis_kernels import bn_act_moments, channel_moments
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from engine.classifiers.statistics.batch_norm import is_batch_norm
from engine.errors import ModelError
from engine.guidance.pairing import ACTIVATIONS, FusedLayer, pair, replaced_forwards
from engine.types import Moments


class _Plan(NamedTuple):
    """How the BatchNorm layers of a network are fused, and the state of their weights that this was made for."""

    layers: Mapping[nn.Module, FusedLayer | None]
    state: list[object]


_plans: WeakKeyDictionary[nn.Module, _Plan] = WeakKeyDictionary()
"""A network is fused at every guided step but watched once."""


_open: WeakSet[nn.Module] = WeakSet()
"""Networks inside of a block: a second one would be watched through the first one's stand-ins."""


@contextmanager
def fused_moments(
    network: nn.Module, per_image: bool = False, layers: Sequence[nn.Module] | None = None
) -> Iterator[list[Moments]]:
    """Fuse a network and yield a list that holds the moments of its latest pass: `recording_moments` without hooks.

    (C,) each or, per image, (N, C), in call order. They carry the graph of the pass, so use them before the block ends:
    it empties the list and restores the network. layers: the BatchNorm layers that measure; all of them by default.
    """
    layers = _norm_layers(network, layers)
    if any(layer.training for layer in layers):
        raise ModelError(
            "the network to be fused is in training mode, expected evaluation mode: its BatchNorm layers would "
            "normalise with the batch's own statistics. Call its eval() first."
        )
    if any(layer.running_mean is None or layer.running_var is None for layer in layers):
        raise ModelError(
            "the network to be fused has BatchNorm layers without running statistics (track_running_stats=False), "
            "expected stored ones in each: they normalise with the batch's own, and store nothing to align with. "
            "Load a network that was trained with stored ones."
        )
    if network in _open and not is_watched(network, layers):
        raise ModelError(
            "the network is in another block that no pass has run in yet, expected one before a second block: run it "
            "in the first, or leave that."
        )
    with ExitStack() as restored:
        if network not in _open:
            _open.add(network)
            restored.callback(_open.discard, network)
        yield _Block(network, layers, per_image, restored).measured


class _Block:
    """A network while it is fused. plan: None until a pass has been watched.

    restored: what undoes the fusion.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[nn.Module],
        per_image: bool,
        restored: ExitStack,
    ) -> None:
        self.network, self.layers, self.per_image = network, layers, per_image
        self.restored, self.forward = restored, network.forward
        self.measured: list[Moments] = []
        self.answering = _Answering()
        self.plan: _Plan | None = None
        known = _plans.get(network)
        if known is not None and known.state == _state(layers):
            self.fuse(known)
        restored.enter_context(replaced_forwards({network: self.run}))
        restored.callback(self.measured.clear)
        restored.callback(self.answering.due.clear)

    def fuse(self, plan: _Plan) -> None:
        """Let the layers measure in each pass."""
        replaced = {
            layer: _measuring(layer.forward, self.measured, self.per_image)
            if how is None
            else _fused(how, self.measured, self.per_image, self.answering.due)
            for layer, how in plan.layers.items()
        }
        self.restored.enter_context(replaced_forwards(replaced))
        self.plan = plan

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """A pass of the network."""
        if self.plan is None:
            paired = pair(self.layers, lambda: self.forward(*args, **kwargs))
            _plans[self.network] = _Plan(paired, _state(self.layers))
            self.fuse(_plans[self.network])
        self.measured.clear()
        self.answering.due.clear()
        with self.answering:
            output = self.forward(*args, **kwargs)
        if self.answering.due:
            del _plans[self.network]
            raise ModelError(
                f"{len(self.answering.due)} BatchNorm outputs of this pass were fused with an activation that the "
                "network then did not call, expected the same path through its code as in the pass that was watched: "
                "pass inputs that take one path, or measure with recording_moments, which fuses nothing."
            )
        return output


def is_watched(network: nn.Module, layers: Sequence[nn.Module] | None = None) -> bool:
    """Whether a pass of `fused_moments` needs no other before it, to see which layers can be fused."""
    known = _plans.get(network)
    return known is not None and known.state == _state(_norm_layers(network, layers))


class _Answering(TorchFunctionMode):
    """Answers a call for an activation that a fused layer has already done, with the call's input.

    due: the outputs of fused layers that the network has yet to activate, by their identity.
    """

    def __init__(self) -> None:
        super().__init__()
        self.due: dict[int, tuple[Tensor, str]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if self.due and func in ACTIVATIONS and args:
            y, activation = self.due.get(id(args[0]), (None, ""))
            if y is not None and ACTIVATIONS[func] == activation:
                del self.due[id(y)]
                return y
        return func(*args, **(kwargs or {}))


def _fused(
    how: FusedLayer, measured: list[Moments], per_image: bool, due: dict[int, tuple[Tensor, str]]
) -> Callable[[Tensor], Tensor]:
    scale, shift, activation, skip = how

    def forward(x: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():  # the operator's own calls are none of the network's
            y, mean, var = bn_act_moments(x, scale, shift, activation, per_image)
        measured.append(Moments(mean, var))
        if skip:
            due[id(y)] = y, activation
        return y

    return forward


def _measuring(
    forward: Callable[..., Any], measured: list[Moments], per_image: bool
) -> Callable[..., Any]:
    def run(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        measured.append(channel_moments(x, per_image))
        return forward(x, *args, **kwargs)

    return run


def _norm_layers(network: nn.Module, chosen: Sequence[nn.Module] | None = None) -> list[nn.Module]:
    """The BatchNorm layers of a network in the order of its definition; of some, those that are chosen."""
    layers = [layer for layer in network.modules() if is_batch_norm(layer)]
    if chosen is None:
        return layers
    wanted = set(chosen)
    return [layer for layer in layers if layer in wanted]


def _version(value: Tensor) -> int:
    """How often a tensor was written to; inference tensors don't count."""
    return 0 if value.is_inference() else value._version


def _state(layers: Sequence[nn.Module]) -> list[object]:
    """What changes when a layer is replaced, moved, converted, or gets other weights."""
    tensors = (
        getattr(layer, name, None)
        for layer in layers
        for name in ("running_mean", "running_var", "weight", "bias")
    )

    def seen(t: object) -> object:
        if not isinstance(t, Tensor):
            return None
        return t.data_ptr(), _version(t), t.dtype

    return [
        *layers,
        *map(seen, tensors),
        *(getattr(layer, "eps", None) for layer in layers),
    ]
